# The conformance suite on a controller with several namespaces of different blocks
#: image disk0 256M
#: image disk1 256M
#: image disk2 256M
#: qemu -blockdev driver=file,node-name=d0,filename={disk0} -blockdev driver=file,node-name=d1,filename={disk1}
#: qemu -blockdev driver=file,node-name=d2,filename={disk2} -device nvme,serial=one,id=c0,addr=4
#: append initcall_blacklist=nvme_init
#: qemu -device nvme-ns,drive=d0,bus=c0,nsid=1 -device nvme-ns,drive=d1,bus=c0,nsid=2,logical_block_size=4096,physical_block_size=4096
#: qemu -device nvme-ns,drive=d2,bus=c0,nsid=7
#: timeout 480
to_vfio 0000:00:04.0
namespaces=$(underpin list pci:0000:00:04.0 | grep -c '^  namespace')
[ "$namespaces" -eq 3 ] || fail "underpin list sees $namespaces namespaces and not 3"
ok "underpin list sees three namespaces"
export UNDERPIN_TEST_DEVICE=pci:0000:00:04.0
conformance transfers:: bring_up:: commands::namespaces endings::
