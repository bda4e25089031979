# A guest that is switched off has not ended by itself
#: notice QEMU ended with status 0, and not because the guest did
ok "before the end"
poweroff -f
