# Two functions of one IOMMU group: neither while the kernel has the other, both in one container
#: image disk0 64M
#: image disk1 64M
#: qemu -blockdev driver=file,node-name=d0,filename={disk0} -device nvme,serial=one,drive=d0,addr=4.0,multifunction=on
#: qemu -blockdev driver=file,node-name=d1,filename={disk1} -device nvme,serial=two,drive=d1,addr=4.1
#: timeout 120
first=0000:00:04.0
second=0000:00:04.1
[ "$(group $first)" = "$(group $second)" ] || fail "they are in two groups"
to_vfio $first
underpin identify pci:$first >/dev/null 2>/tmp/said && fail "it opens though the kernel has $second"
grep -q "also holds $second (driver nvme)" /tmp/said || { cat /tmp/said; fail "it does not name $second"; }
ok "a group that is not whole is refused, by the name of what is missing"
to_vfio $second
RUST_LOG=info underpin list pci:$first pci:$second >/tmp/said 2>&1 || { cat /tmp/said; fail "one does not open"; }
ok "each opens by itself"
UNDERPIN_TEST_DEVICE=pci:$first UNDERPIN_TEST_DEVICE_2=pci:$second RUST_LOG=info \
  conformance queues::two_controllers_in_one_space >/tmp/said 2>&1 || { cat /tmp/said; fail "not both at once"; }
grep -q '^ok ' /tmp/said || { cat /tmp/said; fail "it was skipped"; }
ok "both work in one space"
RUST_LOG=info on-device pair pci:$first pci:$second >/tmp/said 2>&1 || { cat /tmp/said; fail "the end of one is the other's"; }
cat /tmp/said
ok "one buffer for both, and each its own end"
