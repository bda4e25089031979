# A kernel that panics reboots, and QEMU's exit status is 0
#: notice QEMU ended with status 0, and not because the guest did
#: notice the guest's kernel: 
ok "before the panic"
echo c >/proc/sysrq-trigger
