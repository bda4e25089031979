# The function reset as the library's users call it, with its result; and a device that has none
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on,latency-ns=300000000
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: timeout 120
address=0000:00:04.0
device=/sys/bus/pci/devices/$address
to_vfio $address
[ -n "$(cat $device/reset_method)" ] || fail "QEMU's controller has no reset"
on-device reset pci:$address
ok "reset with the kernel's word"
# No way to reset it is left to the kernel.
echo >$device/reset_method
[ -z "$(cat $device/reset_method)" ] || fail "it still has a reset"
on-device reset --none pci:$address
ok "without a reset"
