package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// MissingDNSPerf returns an error if dnsperf is not there.
func MissingDNSPerf() error {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		return errors.New("dnsperf is missing; on Debian: apt-get install dnsperf")
	}
	return nil
}

// dnsperfTime bounds one instance.
const dnsperfTime = time.Minute

// DNSPerf runs dnsperf for each client at once, with one socket and so many queries each, and returns how many each endpoint answered.
func (b *Testbed) DNSPerf(ctx context.Context, clients []netip.Addr, queries int, port uint16) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsperfTime)
	defer cancel()
	before := b.Answered()
	var instances sync.WaitGroup
	errs := make([]error, len(clients))
	for i, client := range clients {
		instances.Go(func() { errs[i] = b.dnsperf(ctx, client, queries, port) })
	}
	instances.Wait()
	after := b.Answered()
	for i := range after {
		after[i] -= before[i]
	}
	return after, errors.Join(errs...)
}

func (b *Testbed) dnsperf(ctx context.Context, client netip.Addr, queries int, port uint16) error {
	input := strings.Repeat("counter.demo.svc.cluster.local A\n", queries)
	out, err := b.clients.run(ctx, input, "dnsperf", "-s", clusterIP.String(), "-p", fmt.Sprint(port), "-a", client.String(),
		"-f", "inet", "-c", "1", "-T", "1", "-n", "1", "-q", "8")
	if err == nil && !bytes.Contains([]byte(out), []byte("Queries completed")) {
		err = fmt.Errorf("running dnsperf: %s", firstLines(out))
	}
	return err
}
