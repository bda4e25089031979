# A doorbell beyond its queue that was allowed is none of the harness's business
#: iommu aw-bits=39
#: qemu -blockdev driver=null-co,node-name=d0,size=1048576,read-zeroes=on
#: qemu -device nvme,serial=one,drive=d0,addr=4
#: append initcall_blacklist=nvme_init
#: allow undefined-behaviour pci_nvme_ub_db_wr_invalid_
bar=$(cut -d" " -f1 /sys/bus/pci/devices/0000:00:04.0/resource | head -n 1)
poke() { devmem "$(printf "0x%x" $((bar + $1)))" 32 "$2"; } # REGISTER VALUE
peek() { devmem "$(printf "0x%x" $((bar + $1)))" 32; }      # REGISTER

# By hand: no driver was ever there, for QEMU does not forget the shadow doorbells of one. The function
# may master the bus, and its admin queues are where nothing is mapped.
printf "\006" | dd of=/sys/bus/pci/devices/0000:00:04.0/config bs=1 seek=4 conv=notrunc 2>/dev/null
poke 0x14 0
enabled() { [ $(($(peek 0x1c) & 1)) -eq 1 ]; }
poke 0x24 0x001f001f
poke 0x28 0x10000000
poke 0x2c 0
poke 0x30 0x20000000
poke 0x34 0
poke 0x14 0x00460001
eventually enabled
poke 0x1000 0xffff
ok "a doorbell has been written"
