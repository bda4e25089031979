# The function is reset by somebody else under load
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,addr=4
# A doorbell may be written after the reset, and before the driver sees it; no queue is there then.
#: allow undefined-behaviour pci_nvme_ub_db_wr_invalid_
to_vfio 0000:00:04.0
loaded() { grep -q loaded /tmp/said; }
: >/tmp/said
on-device load pci:0000:00:04.0 --timeout-ms 3000 >/tmp/said 2>&1 &
load=$!
eventually loaded
echo 1 >/sys/bus/pci/devices/0000:00:04.0/reset
wait $load || { cat /tmp/said; fail "it does not end well"; }
cat /tmp/said
# While the kernel resets it, the function decodes no memory: who looks then sees that it is gone.
grep -qE '^failure: the device (was reset by somebody else|is gone)' /tmp/said || fail "not because of the reset"
underpin list pci:0000:00:04.0 | grep -q 'namespace 1' || fail "it does not open again"
ok "the load ended because of the reset, and it opens again"
