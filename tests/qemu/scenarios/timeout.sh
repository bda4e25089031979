# A device that is too slow: the deadline fails the controller, and its memory waits for proof
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on,latency-ns=8000000000
#: qemu -device pcie-root-port,id=rp1,slot=1,bus=pcie.0,addr=6
#: append initcall_blacklist=nvme_init
# Plugged in only now: the firmware would read from it, not wait so long, and leave a command in flight
# that ends when the IOMMU is on.
monitor qmp '{"execute": "device_add", "arguments": {"driver": "nvme", "serial": "one", "drive": "d0", "bus": "rp1"}}'
there() { [ -n "$(nvme_functions)" ]; }
eventually there
address=$(nvme_functions)
to_vfio "$address"
on-device load "pci:$address" --timeout-ms 1000 | tee /tmp/said
grep -q '^failure: .*not completed within 1s' /tmp/said || fail "no deadline"
grep -q '^quarantined queues: 1' /tmp/said || fail "nothing is in quarantine"
grep -q ' 64 lost' /tmp/said || fail "not all commands are told that they are lost"
ok "the deadline, 64 commands lost, one queue in quarantine"
