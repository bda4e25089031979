# underpin bind, unbind and doctor on the kernel's own sysfs: every refusal, force, an owner, and back
#: image disk 64M
#: image other 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -blockdev driver=file,node-name=d1,filename={other}
#: qemu -device nvme,serial=one,drive=d0,addr=4 -device nvme,serial=two,drive=d1,addr=5
#: image shared 16M
#: qemu -blockdev driver=file,node-name=d2,filename={shared}
#: qemu -device nvme-subsys,id=paths -device nvme,serial=both,subsys=paths,addr=6,id=path1
#: qemu -device nvme,serial=both,subsys=paths,addr=7
#: qemu -device nvme-ns,drive=d2,bus=path1,nsid=1,shared=on
#: bring dmsetup
address=0000:00:04.0
other=0000:00:05.0
disk=$(disk $address)
name=${disk#/dev/}

refused() { # TEXT: bind does not, and says that; the kernel's driver has the function still
  if underpin bind $address >/tmp/said 2>&1; then fail "bound, where it should say: $1"; fi
  grep -qF "$address is in use: $1" /tmp/said || fail "not '$1' but $(cat /tmp/said)"
  [ "$(driver $address)" = nvme ] || fail "it says '$1' and takes the function all the same"
  grep -q '^(null)$' "/sys/bus/pci/devices/$address/driver_override" || fail "driver_override is set"
}

mke2fs "$disk" >/dev/null
mount "$disk" /mnt
refused "$name is mounted at /mnt"
ok "a mounted function is refused"

echo kept >/mnt/file
umount /mnt
unshare -m sh -c "mount $disk /mnt; echo there >/tmp/mounted; exec sleep 1000" &
holder=$!
eventually test -e /tmp/mounted
refused "$name is mounted at /mnt (as pid $holder (sleep) sees it)"
kill $holder; wait $holder || true
ok "one that is mounted in another mount namespace is refused"

dmsetup create volume --table "0 1024 linear $disk 0" >/dev/null
refused "$name is part of dm-0 (volume)"
dmsetup remove volume >/dev/null
ok "a part of a device-mapper device is refused"

hold "$disk" >/tmp/held &
holder=$!
eventually grep -q holding /tmp/held
refused "$name is held exclusively (O_EXCL) by pid $holder (hold)"
kill $holder; wait $holder || true
ok "one that is held with O_EXCL is refused"

exec 3<"$disk"
refused "$name is open in pid $$ (sh)"
exec 3<&-
ok "one that a process has open is refused"

disk2=$(disk $other)
printf 'o\nn\np\n1\n\n+16M\nn\np\n2\n\n\nw\n' | fdisk "$disk2" >/tmp/fdisk 2>&1 || true
eventually test -b "${disk2}p2"
mkswap "${disk2}p2" >/dev/null
swapon "${disk2}p2"
if underpin bind $other $address >/tmp/said 2>&1; then fail "swap was taken"; fi
grep -qF "${disk2#/dev/}p2 is swapped on" /tmp/said || fail "$(cat /tmp/said)"
[ "$(driver $address)" = nvme ] || fail "the other function of the command was taken"
swapoff "${disk2}p2"
ok "a partition that is swapped on is refused, and the rest of the command with it"

hold "${disk2}p1" >/tmp/held2 &
holder=$!
eventually grep -q holding /tmp/held2
if underpin bind $other >/tmp/said 2>&1; then fail "a held partition was taken"; fi
grep -qF "${disk2#/dev/}p1 is held exclusively (O_EXCL) by pid $holder (hold)" /tmp/said || fail "$(cat /tmp/said)"
kill $holder; wait $holder || true
ok "a partition that is held with O_EXCL is refused, by its name"

eventually test -e /sys/class/nvme-subsystem/nvme-subsys*/nvme*n1/holders
for path in 0000:00:06.0 0000:00:07.0; do
  shared=$(underpin list | sed -n "s/.*$path.* \(nvme[0-9]*n1\) .*/\1/p")
  [ -b "/dev/$shared" ] || fail "$path has no block device: $(underpin list)"
  swapon "/dev/$shared" 2>/dev/null || { mkswap "/dev/$shared" >/dev/null; swapon "/dev/$shared"; }
  if underpin bind $path >/tmp/said 2>&1; then fail "a path was taken"; fi
  grep -qF "$path is in use: $shared is swapped on" /tmp/said || fail "$(cat /tmp/said)"
  swapoff "/dev/$shared"
done
ok "a path of a multipath device that is in use is refused"

underpin bind $address --owner 1000:1000 >/tmp/said || fail "$(cat /tmp/said)"
group=$(group $address)
[ "$(driver $address)" = vfio-pci ] || fail "not bound: $(cat /tmp/said)"
[ "$(stat -c %u:%g "/dev/vfio/$group")" = 1000:1000 ] || fail "/dev/vfio/$group is not the user's"
underpin bind $address >/tmp/said
grep -q 'bound to vfio-pci already' /tmp/said || fail "$(cat /tmp/said)"
underpin list | grep -q "$address.*vfio-pci.*bound" || fail "list: $(underpin list)"
ok "a function is bound and given to its owner; twice is once"

su user -c "underpin identify pci:$address --json" >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
grep -q '"sn": "one' /tmp/said || fail "$(cat /tmp/said)"
ok "its owner, an ordinary user, opens it"

su user -c 'underpin doctor' >/tmp/said || fail "$(cat /tmp/said)"
grep -q "ok    $address: bound to vfio-pci; user 1000 may use /dev/vfio/$group" /tmp/said || fail "$(cat /tmp/said)"
su user -c 'ulimit -l 64; underpin doctor' >/tmp/said && fail "64 KiB are enough"
grep -q '^FAIL  memlock: 64 KiB' /tmp/said || fail "$(cat /tmp/said)"
chown 0 "/dev/vfio/$group"
su user -c 'underpin doctor' >/tmp/said && fail "a user needs no node"
grep -q "^FAIL  $address: bound to vfio-pci, but user 1000 may not use /dev/vfio/$group" /tmp/said || fail "$(cat /tmp/said)"
ok "doctor says what the user may do, and what not"

exec 3<>"/dev/vfio/$group"
if underpin unbind --all >/tmp/said 2>&1; then fail "the kernel did not wait"; fi
grep -qF "$address is in use: pid $$ (sh) has its VFIO node open" /tmp/said || fail "$(cat /tmp/said)"
exec 3<&-
underpin unbind --all >/tmp/said || fail "$(cat /tmp/said)"
[ "$(driver $address)" = nvme ] || fail "$(cat /tmp/said)"
eventually has_disk $address
mount "$(disk $address)" /mnt
[ "$(cat /mnt/file)" = kept ] || fail "the file is another one"
underpin unbind $address | grep -q 'with nvme already' || fail "twice is not once"
ok "a function is given back, with what was on it"

umount /mnt
underpin bind $address >/dev/null
underpin-fio --name=a --ioengine=underpin --filename=pci:$address --rw=randread --bs=4k --iodepth=8 \
  --size=16m --time_based --runtime=100 >/tmp/fio 2>&1 &
user=$!
opened() { ls -l /proc/$user/fd | grep -q "/dev/vfio/$(group $address)$"; }
eventually opened
underpin unbind $address >/tmp/said 2>&1 && fail "the kernel did not wait for underpin-fio"
grep -qF "$address is in use: pid $user (underpin-fio) has its VFIO node open" /tmp/said || fail "$(cat /tmp/said)"
underpin unbind $address --force >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
[ "$(driver $address)" = nvme ] || fail "$(cat /tmp/said)"
wait $user && fail "underpin-fio did not notice: $(cat /tmp/fio)"
grep -q "wants the device back" /tmp/fio || fail "$(cat /tmp/fio)"
ok "with --force a program that drives it lets go at once, and says why"

eventually has_disk $address
mount "$(disk $address)" /mnt
underpin bind $address $other --force >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
grep -q "^warning: --force takes $address although $name is mounted at /mnt: " /tmp/said || fail "$(cat /tmp/said)"
[ "$(driver $address) $(driver $other)" = 'vfio-pci vfio-pci' ] || fail "$(cat /tmp/said)"
umount /mnt || umount -l /mnt
underpin unbind --all >/tmp/said || fail "$(cat /tmp/said)"
[ "$(wc -l </tmp/said)" -eq 2 ] || fail "$(cat /tmp/said)"
eventually has_disk $other
ok "with --force it is said, and done; --all gives back both"
