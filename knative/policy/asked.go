package policy

import "strings"

// Asked reports whether annotations say something of affinity, right or wrong. Without any of ours an object has what the cluster has.
func Asked(annotations map[string]string) bool {
	for name := range annotations {
		if strings.HasPrefix(name, simplePrefix) || strings.HasPrefix(name, structuredPrefix) {
			return true
		}
	}
	return false
}
