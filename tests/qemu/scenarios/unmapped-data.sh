# A stale address is blocked by the IOMMU, although QEMU says that all went well
#: image disk 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: expect dmar-fault
#: expect translation-failure
to_vfio 0000:00:04.0
on-device unmapped-data pci:0000:00:04.0
