"""Programs that show the gateway at work. `make demo` runs `examples.demo`."""
