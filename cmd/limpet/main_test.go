package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/limpet-project/limpet/admin"
)

// TestMain makes the test binary also be limpet, for the scripts and for the tests that start processes, and fetch, a small curl.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"limpet": main, "fetch": fetchMain})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": setFreePorts,
			"expand":   expandFile,
			"mode":     checkMode,
			"exits":    checkExit,
			"key":      findKey,
		},
	})
}

// checkExit runs a program and compares its exit code: exits 2 limpet serve.
func checkExit(ts *testscript.TestScript, _ bool, args []string) {
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var ended *exec.ExitError
		if !errors.As(err, &ended) {
			ts.Fatalf("%v", err)
		}
		code = ended.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code = %d, want %s", code, args[0])
	}
}

// findKey sets $KEY to the first key in a file that limpet bindings -o json wrote.
func findKey(ts *testscript.TestScript, _ bool, args []string) {
	var b admin.BindingView
	ts.Check(json.NewDecoder(strings.NewReader(ts.ReadFile(args[0]))).Decode(&b))
	ts.Setenv("KEY", b.Key)
}

// setFreePorts sets each variable named to a loopback address that is free.
func setFreePorts(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		address, err := ownAddress()
		ts.Check(err)
		ts.Setenv(name, address)
	}
}

// ownPorts counts the ports that ownAddress has looked at.
var ownPorts atomic.Int64

// ownAddress returns a loopback address that is free for TCP and UDP, and stays so until it is used: its port is below those that systems
// give to whoever asks for any, and another run of the tests begins with others.
func ownAddress() (string, error) {
	const first, many, each = 20000, 12000, 32
	for range many {
		port := first + (int64(os.Getpid())*each+ownPorts.Add(1))%many
		address := net.JoinHostPort("127.0.0.1", strconv.FormatInt(port, 10))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		c.Close()
		return address, nil
	}
	return "", errors.New("looking for a free port: all are in use")
}

// expandFile replaces $VARIABLES in files.
func expandFile(ts *testscript.TestScript, _ bool, files []string) {
	for _, file := range files {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// checkMode compares the permissions of files: mode 0600 FILE...
func checkMode(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args[1:] {
		s, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", s.Mode().Perm()); got != args[0] {
			ts.Fatalf("mode of %s = %s, want %s", filepath.Base(file), got, args[0])
		}
	}
}

// fetchMain asks for a URL and prints status, headers and body. With -until it asks until a line matches, so that scripts wait for
// conditions.
func fetchMain() {
	host := flag.String("host", "", "the Host header")
	header := flag.String("H", "", "NAME: VALUE")
	method := flag.String("X", http.MethodGet, "the method")
	body := flag.String("d", "", "the body")
	until := flag.String("until", "", "ask until this pattern matches")
	flag.Parse()
	pattern := regexp.MustCompile("(?m)" + *until)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text, err := fetchOnce(*method, flag.Arg(0), *host, *header, *body)
		switch {
		case *until != "" && time.Now().Before(deadline) && (err != nil || !pattern.MatchString(text)):
			continue
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(text)
		return
	}
}

func fetchOnce(method, url, host, header, body string) (string, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Host = host
	if name, value, ok := strings.Cut(header, ": "); ok {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b strings.Builder
	fmt.Fprintln(&b, resp.Status)
	if err := resp.Header.Write(&b); err != nil {
		return "", err
	}
	_, err = io.Copy(&b, resp.Body)
	return b.String(), err
}
