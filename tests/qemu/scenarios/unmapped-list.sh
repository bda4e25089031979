# A PRP list that cannot be reached is a typed error, and the controller goes on
#: image disk 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: expect dmar-fault
#: expect translation-failure
to_vfio 0000:00:04.0
on-device unmapped-list pci:0000:00:04.0
