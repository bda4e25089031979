# The options of docs/CONTAINERS.md as an engine hands them to crun, a runtime of docker and podman
#: image disk 256M
#: qemu -blockdev driver=file,node-name=d0,filename={disk}
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: append initcall_blacklist=nvme_init
#: bring crun
address=0000:00:04.0
mount -t cgroup2 cgroup2 /sys/fs/cgroup

underpin bind $address --owner 1000 >/tmp/said || fail "$(cat /tmp/said)"
group=$(group $address)

bundle=/tmp/bundle
mkdir -p $bundle/rootfs/bin $bundle/rootfs/etc $bundle/rootfs/tmp $bundle/rootfs/proc $bundle/rootfs/sys $bundle/rootfs/dev
chmod 1777 $bundle/rootfs/tmp
cp /etc/passwd /etc/group $bundle/rootfs/etc

device() { # NODE: as --device writes it: the host's number, owner and mode
  printf '{"path": "/dev/%s", "type": "c", "major": %d, "minor": %d, "fileMode": %d, "uid": %d, "gid": %d}' "$1" \
    "0x$(stat -c %t "/dev/$1")" "0x$(stat -c %T "/dev/$1")" "0$(stat -c %a "/dev/$1")" \
    "$(stat -c %u "/dev/$1")" "$(stat -c %g "/dev/$1")"
}
allowed() { # NODE: the rule of the device cgroup that goes with it
  printf '{"allow": true, "type": "c", "major": %d, "minor": %d, "access": "rwm"}' \
    "0x$(stat -c %t "/dev/$1")" "0x$(stat -c %T "/dev/$1")"
}
listed() { # FUNCTION NODE...: with commas between
  local each=$1 comma='' node
  shift
  for node; do
    printf '%s' "$comma"
    $each "$node"
    comma=', '
  done
}
container() { # MEMLOCK-BYTES MEMORY-BYTES NODES COMMAND...: --user 1000 --ulimit memlock= --memory --device...
  local memlock=$1 memory=$2 nodes=$3
  shift 3
  echo "$*" >$bundle/rootfs/command
  cat >$bundle/config.json <<END
{
  "ociVersion": "1.0.0",
  "process": {
    "user": {"uid": 1000, "gid": 1000}, "cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-eu", "/command"],
    "capabilities": {}, "noNewPrivileges": true,
    "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": $memlock, "hard": $memlock}]
  },
  "root": {"path": "rootfs"},
  "mounts": [
    {"destination": "/bin", "type": "none", "source": "/bin", "options": ["bind", "ro"]},
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
  ],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
    "devices": [$(listed device $nodes)],
    "resources": {
      "memory": {"limit": $memory},
      "devices": [{"allow": false, "access": "rwm"}, $(listed allowed $nodes)]
    }
  }
}
END
  crun --cgroup-manager=cgroupfs run --no-pivot -b $bundle one </dev/null
}
told() { # TEXT: a line of what has been said
  grep -qF -- "$1" /tmp/said || fail "not '$1' but $(cat /tmp/said)"
}
none=18446744073709551615
enough=536870912
nodes="vfio/vfio vfio/$group"

container $none $enough "$nodes" 'id -u; ls /dev /dev/vfio; cat /proc/self/cgroup; grep CapEff /proc/self/status; underpin doctor' >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
# The checks of doctor that went well are no tests.
sed 's/^/| /' /tmp/said
told "ok    $address: bound to vfio-pci; user 1000 may use /dev/vfio/$group"
told 'cgroup-memory: 512 MiB for all processes of the group'
ok "with --device for both nodes, --user and --ulimit, doctor finds nothing to put right"

container $none $enough "$nodes" "UNDERPIN_TEST_DEVICE=pci:$address conformance bring_up:: transfers::"

if container 65536 $enough "$nodes" 'underpin doctor' >/tmp/said 2>&1; then fail "64 KiB are enough"; fi
told 'FAIL  memlock: 64 KiB may be pinned'
if container $none $enough vfio/vfio 'underpin doctor' >/tmp/said 2>&1; then fail "the group's node is not missed"; fi
told "--device /dev/vfio/$group"
if container $none $enough vfio/$group 'underpin doctor' >/tmp/said 2>&1; then fail "VFIO's node is not missed"; fi
told '--device /dev/vfio/vfio'
if container $none 8388608 "$nodes" 'underpin doctor' >/tmp/said 2>&1; then fail "8 MiB are enough"; fi
told 'FAIL  cgroup-memory: 8 MiB for all processes of the group'
ok "without one of them doctor names the option"
