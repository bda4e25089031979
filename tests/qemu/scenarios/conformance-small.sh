# The conformance suite on blocks of 4 KiB, short transfers (MDTS 2) and two queues
#: iommu aw-bits=39
#: image disk0 1G
#: image disk1 1G
#: qemu -blockdev driver=file,node-name=d0,filename={disk0} -blockdev driver=file,node-name=d1,filename={disk1}
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,addr=4,logical_block_size=4096,physical_block_size=4096,mdts=2,max_ioqpairs=2,msix_qsize=3 -device nvme,serial=two,drive=d1,addr=5,logical_block_size=4096,physical_block_size=4096,mdts=2,max_ioqpairs=2,msix_qsize=3
#: timeout 480
to_vfio 0000:00:04.0 0000:00:05.0
conformance_suite pci:0000:00:04.0 pci:0000:00:05.0
