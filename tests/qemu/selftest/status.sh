# A scenario's exit status reaches the host
#: notice the guest ended with status 7
ok "before it ends"
exit 7
