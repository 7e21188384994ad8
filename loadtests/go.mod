module loadtests

go 1.18

require (
	golang.org/x/net v0.33.0
	golang.org/x/sys v0.28.0
)

require golang.org/x/text v0.21.0 // indirect
