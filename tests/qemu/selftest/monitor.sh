# The host does what a guest asks it, and tells of what happens
#: qemu -device pcie-root-port,id=rp1,slot=1
#: qemu -blockdev driver=null-co,node-name=d0,size=1048576 -device nvme,serial=one,drive=d0,bus=rp1,id=one
monitor hmp info version | grep -q '"return": *"[0-9]' || fail "no answer to a command"
ok "a command of the human monitor"
monitor qmp '{"execute": "query-status"}' | grep -q '"running": true' || fail "no answer to a question"
ok "a command of the machine protocol"
if monitor qmp '{"execute": "nothing-like-it"}'; then fail "an error is none"; fi
if monitor nothing; then fail "an error is none"; fi
ok "errors are errors"
gone() { [ -z "$(nvme_functions)" ]; }
eventually has_disk "$(nvme_functions)"
monitor qmp '{"execute": "device_del", "arguments": {"id": "one"}}'
eventually gone
monitor wait DEVICE_DELETED | grep -q '"device": "one"' || fail "no event"
ok "an event"
