package clientip

import (
	"context"
	"errors"
	"io"
	"os/exec"
)

// LiveFlows reads this machine's table of connections, in the network namespace of this thread, and calls keep for each flow whose address
// was translated. The context ends it.
func LiveFlows(ctx context.Context, keep func(Flow)) error {
	if _, err := exec.LookPath("conntrack"); err != nil {
		return errors.New("looking for the program conntrack: it is not installed; on Debian: apt-get install conntrack")
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		err := command(ctx, "conntrack", "-L", "--any-nat", "-f", family).read(func(name string, r io.Reader) error {
			return ReadFlows(name, r, keep)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
