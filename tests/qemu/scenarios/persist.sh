# What `underpin bind --persist` prints, read by Debian's udev: at a start a function is bound and given to its owner
#: image disk 64M
#: image other 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -blockdev driver=file,node-name=d1,filename={other}
#: qemu -device nvme,serial=one,drive=d0,addr=4 -device nvme,serial=two,drive=d1,addr=5
#: append initcall_blacklist=nvme_init
#: bring udevadm
address=0000:00:04.0
other=0000:00:05.0
ln -s udevadm /bin/systemd-udevd
mkdir -p /run/udev /etc/udev/rules.d /etc/modprobe.d "/lib/modules/$(uname -r)"
# A number that has no name here, as on most machines: udev takes it all the same.
owner=1000:100
# Nothing is bound yet: the lines are printed by the command that binds, and then it is given back.
underpin bind $address --owner $owner --persist >/tmp/printed || fail "$(cat /tmp/printed)"
bind_to $address ''
sed -n '/^# \/etc\/udev\/rules.d\/70-underpin.rules$/,/^# \/etc\/modprobe.d/p' /tmp/printed | sed '/^# \/etc/d; /^$/d' >/tmp/70-underpin.rules
cat /tmp/70-underpin.rules
grep -q driver_override /tmp/70-underpin.rules || fail "no rule in $(cat /tmp/printed)"

starts() { # the event with which udev is told of every device at a start, and all that it does about it
  udevadm trigger --action=add /sys/bus/pci/devices/$address /sys/bus/pci/devices/$other
  udevadm settle
}
hears() { udevadm control --ping 2>/dev/null; }
systemd-udevd --debug >/tmp/udev 2>&1 &
udev=$!
eventually hears
starts
[ -z "$(driver $address)" ] || fail "it is bound without the rule: to $(driver $address)"
kill $udev; wait $udev || true

cp /tmp/70-underpin.rules /etc/udev/rules.d
systemd-udevd --debug >/tmp/udev 2>&1 &
udev=$!
eventually hears
starts
[ "$(driver $address)" = vfio-pci ] || fail "not bound to vfio-pci: $(grep -i underpin /tmp/udev; tail -50 /tmp/udev)"
[ -z "$(driver $other)" ] || fail "the other one is bound, too"
ok "udev binds the function, and no other"

if grep -E '70-underpin.rules:[0-9]+.*([Ii]nvalid|[Uu]nknown|[Ff]ailed|ignor)' /tmp/udev; then
  fail "udev has something against the rule"
fi
ok "udev has nothing against a line of it"

node=/dev/vfio/$(group $address)
[ "$(stat -c %u:%g "$node")" = $owner ] || fail "$node is $(stat -c %u:%g "$node")'s: $(grep -i chown /tmp/udev)"
ulimit -l unlimited
su user -c "underpin list pci:$address" >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
ok "its owner, an ordinary user, opens it"

# With a kernel that has them: the function's own node.
for own in /sys/bus/pci/devices/$address/vfio-dev/vfio*; do
  [ -e "$own/dev" ] || continue
  own=/dev/vfio/devices/${own##*/}
  [ "$(stat -c %u:%g "$own")" = $owner ] || fail "$own is $(stat -c %u:%g "$own")'s"
done
kill $udev; wait $udev || true
