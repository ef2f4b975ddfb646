package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// defaultAdmin is where a gateway's admin listener is unless configured otherwise.
const defaultAdmin = "http://127.0.0.1:9901"

// adminFlags are the flags of commands that speak to a running gateway.
type adminFlags struct {
	Admin  string `help:"Admin address of the gateway." default:"${admin}" placeholder:"URL"`
	Output string `help:"Output format: text or json." enum:"text,json" default:"text" short:"o"`
}

// maxAnswer bounds what is read from a gateway.
const maxAnswer = 64 << 20

// call sends one request to the admin API and decodes its answer into out, which may be nil.
func (f adminFlags) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("writing the request to %s: %w", path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, f.base()+path, body)
	if err != nil {
		return usageError{fmt.Errorf("--admin: %w", err)}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the gateway (is it running, and is --admin its admin address?): %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway answered %s: %s", resp.Status, strings.TrimSpace(string(data)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return nil
}

// base returns the address as a URL; host:port alone means HTTP.
func (f adminFlags) base() string {
	base := strings.TrimSuffix(f.Admin, "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	return base
}

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
