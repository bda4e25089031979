# What scenarios in the guest have in common; sourced before each of them, with `set -eu`.
# A test that passed is a line `ok      NAME`; the host counts them.

passed=0
ok() { echo "ok      $*"; passed=$((passed + 1)); }
fail() { echo "FAILED  $*"; exit 1; }
# With -e a command that fails ends the scenario without a word.
trap 'ended=$?; [ $ended -eq 0 ] || echo "the scenario ended with status $ended"' EXIT

# --- PCI
nvme_functions() { # every NVMe controller's address
  for function in /sys/bus/pci/devices/*; do
    case $(cat "$function/class") in 0x0108*) echo "${function##*/}" ;; esac
  done
}
driver() { # ADDRESS: the kernel driver that is bound, or nothing
  [ ! -e "/sys/bus/pci/devices/$1/driver" ] || basename "$(readlink "/sys/bus/pci/devices/$1/driver")"
}
group() { # ADDRESS: its IOMMU group
  basename "$(readlink "/sys/bus/pci/devices/$1/iommu_group")"
}
bind_to() { # ADDRESS DRIVER: binds it to that driver; none: to whichever wants it
  local device=/sys/bus/pci/devices/$1
  [ ! -e "$device/driver" ] || echo "$1" >"$device/driver/unbind"
  echo "${2:-}" >"$device/driver_override"
  echo "$1" >/sys/bus/pci/drivers_probe
}
to_vfio() { # ADDRESS...: away from the kernel's driver, without the help of `underpin bind`
  local address
  for address; do
    bind_to "$address" vfio-pci
    [ "$(driver "$address")" = vfio-pci ] || fail "$address is not bound to vfio-pci"
  done
}
to_kernel() { # ADDRESS...: back to it, until its namespaces are there
  local address
  for address; do
    bind_to "$address" ''
    [ "$(driver "$address")" = nvme ] || fail "$address is not bound to nvme"
    eventually has_disk "$address"
  done
}
has_disk() { disk "$1" >/dev/null; }
disk() { # ADDRESS [NSID]: the block device that the kernel made of a namespace
  local block
  for block in "/sys/bus/pci/devices/$1"/nvme/nvme*/nvme*n*; do
    [ -e "$block/nsid" ] && [ "$(cat "$block/nsid")" = "${2:-1}" ] || continue
    [ -b "/dev/${block##*/}" ] && echo "/dev/${block##*/}" && return
  done
  return 1
}
eventually() { # COMMAND...: again and again until it succeeds, 20 s at most
  local try
  for try in $(seq 200); do "$@" && return; usleep 100000; done
  fail "not in 20 s: $*"
}

# --- the host
monitor() { # `qmp JSON`, `hmp COMMAND`, `wait EVENT` or `trace TEXT`: done by the host; prints the answer
  local answer
  exec 9<>/dev/virtio-ports/monitor
  echo "$*" >&9
  read -r answer <&9
  exec 9>&-
  echo "$answer"
  case $answer in *'"error"'*) return 1 ;; esac
}

# --- the conformance suite
conformance_suite() { # URL [URL2]: all of it; what it lacks is exactly what the list in the program says
  local all passed skipped way=container
  # What the driver prefers where the kernel offers it.
  [ ! -e /dev/vfio/devices ] || way=iommufd
  RUST_LOG=info underpin list "$1" 2>&1 | grep -q "vfio $way" || fail "it is not opened by a VFIO $way"
  all=$(conformance --list | grep -c ': test$')
  UNDERPIN_TEST_DEVICE=$1 UNDERPIN_TEST_DEVICE_2=${2:-} conformance >/tmp/suite || { cat /tmp/suite; exit 1; }
  cat /tmp/suite
  passed=$(grep -c '^ok ' /tmp/suite)
  skipped=$(grep -c '^skipped ' /tmp/suite || true)
  echo "conformance by VFIO $way: $all tests, $passed passed, $skipped skipped"
  [ $((passed + skipped)) -eq "$all" ] || fail "some tests say neither that they passed nor why not"
}
