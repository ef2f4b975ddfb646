//go:build !linux

package main

import "errors"

func enterNetwork() error { return errors.New("this is not Linux") }
