# Polite removal under load, again and again: everything in flight is told, and the kernel need not wait
#: qemu -device pcie-root-port,id=rp1,slot=1,bus=pcie.0,addr=6
#: append initcall_blacklist=nvme_init
#: timeout 480
qmp() { monitor qmp "$1" >/tmp/answer || fail "QEMU refuses: $(cat /tmp/answer)"; }
loaded() { grep -q loaded /tmp/said; }
there() { [ -n "$(nvme_functions)" ]; }
gone() { [ -z "$(nvme_functions)" ]; }
counted=0
for round in $(seq 40); do
  [ $counted -lt 20 ] || break
  # A disk of its own: QEMU frees a device's later than the guest sees it go.
  qmp "{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"null-co\", \"node-name\": \"d$round\", \"size\": 1073741824, \"read-zeroes\": true, \"latency-ns\": 2000000}}"
  qmp "{\"execute\": \"device_add\", \"arguments\": {\"driver\": \"nvme\", \"serial\": \"one\", \"drive\": \"d$round\", \"bus\": \"rp1\", \"id\": \"n$round\"}}"
  eventually there
  address=$(nvme_functions)
  to_vfio "$address"
  : >/tmp/said
  on-device load "pci:$address" >/tmp/said 2>&1 &
  load=$!
  eventually loaded
  qmp "{\"execute\": \"device_del\", \"arguments\": {\"id\": \"n$round\"}}"
  wait $load || { cat /tmp/said; fail "round $round: it does not end well"; }
  grep -q '^failure: the kernel wants the device back' /tmp/said || { cat /tmp/said; fail "round $round: not because of the removal"; }
  lost=$(sed -n 's/^commands: .* \([0-9]*\) lost$/\1/p' /tmp/said)
  eventually gone
  # It may come in a moment in which everything has just been completed; such a round shows less.
  [ "$lost" -ge 32 ] || continue
  counted=$((counted + 1))
  ok "round $round: removed with $lost commands in flight"
done
[ $counted -eq 20 ] || fail "only $counted rounds had 32 commands in flight"
