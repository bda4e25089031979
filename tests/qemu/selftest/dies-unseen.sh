# A command that fails ends its scenario, without a word of its own
#: notice the guest ended with status 1
ok "before it ends"
false
ok "never reached"
