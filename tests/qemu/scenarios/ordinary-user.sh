# An ordinary user, after `bind --owner 1000`: the smoke tests, and what is missing without
#: image disk0 1G
#: qemu -blockdev driver=file,node-name=d0,filename={disk0}
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: append initcall_blacklist=nvme_init
address=0000:00:04.0
underpin bind $address
as_user() { su user -c "$*"; }
if as_user underpin list pci:$address >/tmp/said 2>&1; then fail "everybody may open it"; fi
cat /tmp/said
grep -q "/dev/vfio/$(group $address)" /tmp/said || fail "the message does not name the node"
ok "without permission the message names the node"

underpin bind $address --owner 1000
ulimit -l 64
if as_user underpin list pci:$address >/tmp/said 2>&1; then fail "64 KiB of locked memory are enough"; fi
cat /tmp/said
[ "$(grep -ci memlock /tmp/said)" -eq 1 ] || fail "not one message that names RLIMIT_MEMLOCK"
ok "with 64 KiB of locked memory one message names the limit"

ulimit -l unlimited
as_user "UNDERPIN_TEST_DEVICE=pci:$address conformance bring_up:: transfers::"
