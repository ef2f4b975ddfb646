package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/limpet-project/limpet/sticky"
)

const (
	// patience is how long one request may take; a revision may have to be woken first.
	patience = time.Minute
	// most is how much of an answer is read: a revision's name has at most 63 bytes.
	most = 1 << 10
)

// runClient sends requests one after the other and prints which revision processed each.
func runClient(ctx context.Context, f *flag.FlagSet, args []string, out io.Writer) error {
	host := f.String("host", "", "`name` in the Host header, where URL is an ingress's address")
	requests := f.Int("requests", 2, "`number` of requests")
	if err := parse(f, args, 1); err != nil {
		return err
	}
	if *requests < 1 {
		return fmt.Errorf("--requests %d: want at least 1", *requests)
	}
	client := &http.Client{
		// This is all that a client needs for sticky revisions.
		Transport: &sticky.Session{},
		Timeout:   patience,
	}
	defer client.CloseIdleConnections()
	for n := 1; n <= *requests; n++ {
		revision, err := ask(ctx, client, f.Arg(0), *host)
		if err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
		fmt.Fprintf(out, "request %d was processed by revision %s\n", n, revision)
	}
	return nil
}

// ask sends one request and returns the name in the answer.
func ask(ctx context.Context, client *http.Client, url, host string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Host = host // "" is the host of the URL
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answered %s: %s", resp.Status, text)
	}
	return text, nil
}
