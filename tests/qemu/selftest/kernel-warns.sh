# A warning of the guest's kernel does not come to a quiet console, and is noticed
#: notice the guest's kernel: 
echo '<4>WARNING: CPU: 0 PID: 1 at drivers/of/nobody.c:1 as a kernel says it' >/dev/kmsg
ok "before the warning was looked for"
