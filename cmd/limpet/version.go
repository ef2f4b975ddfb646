package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// versionCommand prints the version.
type versionCommand struct{}

// Run prints the module's version, as the Go toolchain recorded it.
func (versionCommand) Run() error {
	fmt.Printf("limpet %s, %s\n", version(), runtime.Version())
	return nil
}

func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok || b.Main.Version == "" {
		return "(devel)"
	}
	return b.Main.Version
}
