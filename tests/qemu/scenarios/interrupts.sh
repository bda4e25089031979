# Sleeping for interrupts, under load and not: they arrive, and every queue has a vector of its own
#: qemu -blockdev driver=null-co,node-name=d0,size=1073741824,read-zeroes=on,latency-ns=1000000
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: append initcall_blacklist=nvme_init
to_vfio 0000:00:04.0
arrived() { awk '/vfio-msix/ { n += $2 + $3 } END { print n + 0 }' /proc/interrupts; }
loaded() { grep -q loaded /tmp/said; }
: >/tmp/said
on-device load pci:0000:00:04.0 --interrupts --depth 4 --seconds 5 >/tmp/said 2>&1 &
load=$!
eventually loaded
before=$(arrived)
sleep 1
after=$(arrived)
[ $((after - before)) -gt 10 ] || fail "$((after - before)) interrupts in a second of load"
ok "$((after - before)) interrupts in a second"
wait $load || { cat /tmp/said; fail "it does not end well"; }
cat /tmp/said
on-device vectors pci:0000:00:04.0
