# A fatal error of the PCI Express link: the kernel tells, the controller fails
#: qemu -device pcie-root-port,id=rp1,slot=1,bus=pcie.0,addr=6
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,bus=rp1
# A doorbell may be written after the reset, and before the driver sees it; no queue is there then.
#: allow undefined-behaviour pci_nvme_ub_db_wr_invalid_
address=$(nvme_functions)
to_vfio "$address"
loaded() { grep -q loaded /tmp/said; }
: >/tmp/said
# Asleep, so that the kernel's word comes before a look at registers that its reset of the link has changed.
on-device load "pci:$address" --timeout-ms 5000 --interrupts >/tmp/said 2>&1 &
load=$!
eventually loaded
monitor hmp pcie_aer_inject_error rp1 DLP
wait $load || { cat /tmp/said; fail "it does not end well"; }
cat /tmp/said
grep -q '^failure: .*link failed (AER)' /tmp/said || fail "not because of what the kernel tells"
ok "the load ended because the link failed"
