# For scripts that mount file systems on loop devices: ends them with 77, skipped, where that cannot
# be, and says why. With UNDERPIN_REQUIRE_MOUNTS=1, as in continuous integration, that is a failure.
missing() {
  if [ "${UNDERPIN_REQUIRE_MOUNTS:-}" = 1 ]; then echo "FAILED: $0: $1" >&2; exit 1; fi
  echo "SKIPPED: $0: $1" >&2
  exit 77
}

needs() { # programs
  local program
  [ "$(id -u)" -eq 0 ] || missing "it mounts file systems: run it as root"
  for program; do
    command -v "$program" >/dev/null || missing "$program is not installed (tests/setup does)"
  done
}

# Only a mount shows that loop devices and the file system are there, and may be used.
needs_mount() { # file system
  local scratch good=0
  scratch=$(mktemp -d)
  mkdir "$scratch/mount"
  truncate -s 128M "$scratch/image"
  "mkfs.$1" -q "$scratch/image" >/dev/null 2>&1 && mount -o loop "$scratch/image" "$scratch/mount" &&
    umount "$scratch/mount" && good=1
  rm -rf "$scratch"
  [ "$good" = 1 ] || missing "no $1 can be mounted from a loop device (root, /dev/loop*, the kernel's module)"
}
