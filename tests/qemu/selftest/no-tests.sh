# A scenario in which nothing was tested has not passed
#: notice no test has passed
echo "okay, but no test"
