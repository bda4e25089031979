# What is allowed need not occur
#: allow undefined-behaviour
#: allow dmar-fault
#: allow translation-failure
ok "nothing has happened"
