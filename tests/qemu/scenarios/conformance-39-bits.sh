# The conformance suite on two PCI functions, where an IOVA has 39 bits
#: iommu aw-bits=39
#: image disk0 1G
#: image disk1 1G
#: qemu -blockdev driver=file,node-name=d0,filename={disk0} -blockdev driver=file,node-name=d1,filename={disk1}
#: qemu -device nvme,serial=one,drive=d0,addr=4,ioeventfd=off -device nvme,serial=two,drive=d1,addr=5,ioeventfd=off
#: timeout 480
to_vfio 0000:00:04.0 0000:00:05.0
conformance_suite pci:0000:00:04.0 pci:0000:00:05.0
