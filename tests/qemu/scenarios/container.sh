# What docs/CONTAINERS.md says, in namespaces with a /dev of their own: what a container needs, what one is told
#: image disk 256M
#: image other 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -blockdev driver=file,node-name=d1,filename={other}
#: qemu -device nvme,serial=one,drive=d0,addr=4 -device nvme,serial=two,drive=d1,addr=5
address=0000:00:04.0
other=0000:00:05.0

# What a container engine does with --user 1000 and --device: namespaces of mounts and processes, a
# root, a proc, and a /dev with a few nodes, made by hand as an engine makes them.
cat >/tmp/enter <<'END'
box=/tmp/box
mkdir -p $box
mount -t tmpfs box $box
mkdir -p $box/bin $box/etc $box/dev/vfio $box/proc $box/sys $box/tmp
chmod 1777 $box/tmp
cp /etc/passwd /etc/group $box/etc
mount -o bind /bin $box/bin
mount -t proc proc $box/proc
mount -t sysfs -o "$SYSFS" sysfs $box/sys
mount -t tmpfs -o mode=755 dev $box/dev
mkdir -p $box/dev/vfio
mknod -m 666 $box/dev/null c 1 3
mknod -m 666 $box/dev/zero c 1 5
mknod -m 666 $box/dev/urandom c 1 9
for node in $NODES; do
  cp -a "/dev/$node" "$box/dev/$node"
done
cp /tmp/command $box/command
exec chroot $box sh -eu -c "$AS"
END
enter() { # NODES SYSFS AS COMMAND...
  export NODES=$1 SYSFS=$2 AS=$3
  shift 3
  echo "$*" >/tmp/command
  unshare -m -p -f sh -eu /tmp/enter
}
contained() { # NODES COMMAND...: as user 1000
  local nodes=$1
  shift
  enter "$nodes" ro 'su user -c "sh -eu /command"' "$@"
}
told() { # TEXT: a line of what has been said
  grep -qF -- "$1" /tmp/said || fail "not '$1' but $(cat /tmp/said)"
}

underpin bind $address --owner 1000 >/tmp/said || fail "$(cat /tmp/said)"
group=$(group $address)
nodes="vfio/vfio vfio/$group"
ulimit -l unlimited

contained "$nodes" 'id -u; ls /dev /dev/vfio; grep CapEff /proc/self/status; underpin doctor' >/tmp/said || fail "$(cat /tmp/said)"
# The checks of doctor that went well are no tests.
sed 's/^/| /' /tmp/said
told "ok    $address: bound to vfio-pci; user 1000 may use /dev/vfio/$group"
told '0000000000000000'
ok "with both nodes, as an ordinary user, doctor finds nothing to put right"

contained "$nodes" "UNDERPIN_TEST_DEVICE=pci:$address conformance bring_up:: transfers::"

if contained "vfio/vfio" 'underpin doctor' >/tmp/said; then fail "no node of the group is missed"; fi
told "FAIL  $address: bound to vfio-pci, but there is no /dev/vfio/$group"
told "--device /dev/vfio/$group"
if contained "vfio/$group" 'underpin doctor' >/tmp/said; then fail "VFIO's own node is not missed"; fi
told 'FAIL  vfio-node: there is neither /dev/vfio/vfio nor /dev/iommu'
told '--device /dev/vfio/vfio'
if contained "vfio/$group" "underpin list pci:$address" >/tmp/said 2>&1; then fail "it opens all the same"; fi
ok "a node that is missing is named, with the option that brings it"

if (ulimit -l 64; contained "$nodes" 'underpin doctor') >/tmp/said; then fail "64 KiB are enough"; fi
told 'FAIL  memlock: 64 KiB may be pinned (RLIMIT_MEMLOCK); a device needs'
told '--ulimit memlock=-1'
ok "a limit on locked memory is named, with the option that lifts it"

# A rootless container: root of a user namespace has every capability there.
rootless() { # COMMAND
  su user -c "unshare -U -r $*"
}
rootless 'sh -c "id -u; grep CapEff /proc/self/status"' >/tmp/said || fail "$(cat /tmp/said)"
told 'CapEff:	000001ffffffffff'
(ulimit -l 64; rootless underpin doctor) >/tmp/said && fail "64 KiB are enough"
told 'RLIMIT_MEMLOCK; CAP_IPC_LOCK does not lift it in a user namespace'
(ulimit -l 64; rootless underpin list pci:$address) >/tmp/said 2>&1 && fail "the kernel lets it pin"
rootless underpin doctor >/tmp/said || fail "$(cat /tmp/said)"
rootless underpin list pci:$address >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
ok "in a user namespace capabilities do not lift the limit, for doctor as for the kernel"

# bind where a /dev has not the disks' nodes, as root and with a sysfs that can be written.
disk=$(disk $other)
name=${disk#/dev/}
mke2fs "$disk" >/dev/null 2>&1
mount "$disk" /mnt
echo kept >/mnt/file
refused() { # NODES BEFORE TEXT: bind is not done, for that reason
  if enter "$1" rw 'sh -eu /command' "$2 exec underpin bind $other" >/tmp/said 2>&1; then
    fail "a mounted disk was taken: $(cat /tmp/said)"
  fi
  told "$3"
  [ "$(driver $other)" = nvme ] || fail "$(cat /tmp/said)"
}
cannot="error: $other: whether its block devices are in use cannot be seen:"
refused "$nodes" '' "$cannot there is no $disk here"
refused "$nodes" "echo image >$disk;" "$cannot $disk is not the node of a block device"
refused "$nodes" "mknod $disk c 1 3;" "$cannot $disk is not the node of a block device"
refused "$nodes" "mknod $disk b 1 0;" "$cannot $disk is the node of another device: 1:0"
refused "$nodes $name" '' "$other is in use: $name is held exclusively (O_EXCL) by somebody that cannot be seen from here"
[ "$(cat /mnt/file)" = kept ] || fail "the disk is another one"
ok "bind takes no mounted disk, whatever stands under its name"

umount /mnt
enter "$nodes $name" rw 'sh -eu /command' "exec underpin bind $other" >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
told 'warning: processes outside of this PID namespace cannot be seen'
[ "$(driver $other)" = vfio-pci ] || fail "$(cat /tmp/said)"
ok "with its node a disk without users is taken, and a warning says what was not seen"
