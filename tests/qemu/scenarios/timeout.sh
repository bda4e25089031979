# A device that is too slow: the deadline fails the controller, and its memory waits for proof
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on,latency-ns=8000000000
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: append initcall_blacklist=nvme_init
to_vfio 0000:00:04.0
on-device load pci:0000:00:04.0 --timeout-ms 1000 | tee /tmp/said
grep -q '^failure: .*not completed within 1s' /tmp/said || fail "no deadline"
grep -q '^quarantined queues: 1' /tmp/said || fail "nothing is in quarantine"
grep -q ' 64 lost' /tmp/said || fail "not all commands are told that they are lost"
ok "the deadline, 64 commands lost, one queue in quarantine"
