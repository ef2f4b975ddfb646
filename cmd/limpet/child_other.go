//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has no counterpart here: a child of a demo that was killed has to be ended by hand.
func dieWithParent() *syscall.SysProcAttr { return nil }

func startProcess(cmd *exec.Cmd) error { return cmd.Start() }
