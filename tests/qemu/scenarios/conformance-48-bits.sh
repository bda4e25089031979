# The conformance suite where an IOVA has 48 bits and a doorbell is an eventfd of QEMU's
#: iommu aw-bits=48
#: image disk0 1G
#: image disk1 1G
#: qemu -blockdev driver=file,node-name=d0,filename={disk0} -blockdev driver=file,node-name=d1,filename={disk1}
#: qemu -device nvme,serial=one,drive=d0,addr=4,ioeventfd=on -device nvme,serial=two,drive=d1,addr=5,ioeventfd=on
#: timeout 480
to_vfio 0000:00:04.0 0000:00:05.0
conformance_suite pci:0000:00:04.0 pci:0000:00:05.0
