# Shadow doorbells spare register writes, and QEMU's eventfds the rest; without them each ring is one
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on
#: qemu -blockdev driver=null-co,node-name=d1,size=1073741824,read-zeroes=on
#: qemu -device nvme,serial=one,drive=d0,addr=4,ioeventfd=off -device nvme,serial=two,drive=d1,addr=5,ioeventfd=on
#: append initcall_blacklist=nvme_init
#: trace pci_nvme_mmio_doorbell_sq
#: trace pci_nvme_mmio_doorbell_cq
#: trace pci_nvme_dbbuf_config
by_register=0000:00:04.0
by_eventfd=0000:00:05.0
to_vfio $by_register $by_eventfd
said() { sed -n "s/.*[^0-9]\([0-9]\+\) $1.*/\1/p" /tmp/said; }
traced() { monitor trace "$1" | sed 's/[^0-9]//g'; }
# Load on queue 1. Sets `rings` and `writes` (of both doorbells) as the driver counts; and as QEMU does
# `tails` and `heads`, its writes of the submission and completion doorbells' registers, and `configured`.
load() { # ADDRESS ARGUMENTS...
  local tails_before heads_before configured_before
  tails_before=$(traced 'mmio_doorbell_sq sqid 1 ') heads_before=$(traced 'mmio_doorbell_cq cqid 1 ')
  configured_before=$(traced dbbuf_config)
  on-device load "pci:$1" --seconds 2 --depth 32 --ring-each ${2:-} >/tmp/said 2>&1 || { cat /tmp/said; fail "load $*"; }
  rings=$(said rings) writes=$(said 'register writes')
  tails=$(($(traced 'mmio_doorbell_sq sqid 1 ') - tails_before))
  heads=$(($(traced 'mmio_doorbell_cq cqid 1 ') - heads_before))
  configured=$(($(traced dbbuf_config) - configured_before))
  echo "$*: $(said submitted) commands, $rings rings, $writes register writes; QEMU saw $tails + $heads"
  [ "$rings" -gt 100 ] || fail "hardly a load"
}

load $by_register --no-shadow-doorbells
[ $configured -eq 0 ] || fail "shadow doorbells are in use"
[ $tails -eq "$rings" ] || fail "a ring that is no register write"
[ $((tails + heads)) -eq "$writes" ] || fail "QEMU saw other register writes than the driver"
ok "without shadow doorbells every ring is a register write"

load $by_register
[ $configured -eq 1 ] || fail "no Doorbell Buffer Config"
[ $((tails * 20)) -lt $((rings * 19)) ] || fail "$tails register writes for $rings rings"
[ $((tails + heads)) -eq "$writes" ] || fail "QEMU saw other register writes than the driver"
ok "with them a register is not written while the device looks at its queue"

load $by_eventfd
[ $configured -eq 1 ] || fail "no Doorbell Buffer Config"
[ "$writes" -gt 0 ] || fail "nothing woke the device"
[ $((tails + heads)) -eq 0 ] || fail "not all register writes end in QEMU's eventfds"
ok "with ioeventfd=on no write reaches a register"

load $by_eventfd --no-shadow-doorbells
[ $((tails + heads)) -eq "$writes" ] || fail "QEMU saw other register writes than the driver"
ok "and without shadow doorbells there is no eventfd"
