# The device is suddenly not there any more: nothing tells, registers read zero
#: qemu -device pcie-root-port,id=rp1,slot=1,bus=pcie.0,addr=6
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,bus=rp1
address=$(nvme_functions)
to_vfio "$address"
loaded() { grep -q loaded /tmp/said; }
: >/tmp/said
on-device load "pci:$address" --timeout-ms 3000 >/tmp/said 2>&1 &
load=$!
eventually loaded
# The port forwards no memory access any more.
printf '\000' | dd of=/sys/bus/pci/devices/0000:00:06.0/config bs=1 seek=4 conv=notrunc 2>/dev/null
wait $load || { cat /tmp/said; fail "it does not end well"; }
cat /tmp/said
grep -q '^failure: the device is gone' /tmp/said || fail "not because the device is gone"
ok "the load ended because the device is gone"
