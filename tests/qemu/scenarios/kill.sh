# A process that is killed under load, again and again: opens again at once, and nothing is written
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on,latency-ns=20000000
#: append initcall_blacklist=nvme_init
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: timeout 480
to_vfio 0000:00:04.0
loaded() { grep -q loaded /tmp/said; }
# The device has zeroes to write; and whatever hits what is not mapped any more is a finding.
head -c 4194304 /dev/zero | tr '\0' '\377' >/tmp/canary
for round in $(seq 20); do
  : >/tmp/said
  on-device load pci:0000:00:04.0 >/tmp/said 2>&1 &
  load=$!
  eventually loaded
  kill -9 $load
  wait $load || true
  # The memory that was freed is the first that is given out again.
  cp /tmp/canary /tmp/reused
  underpin list pci:0000:00:04.0 | grep -q 'namespace 1' || fail "round $round: it does not open again"
  cmp /tmp/canary /tmp/reused || fail "round $round: something was written after the end"
  ok "round $round: killed under load, opened again, nothing written"
done
