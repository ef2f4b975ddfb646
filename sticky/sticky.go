// Package sticky keeps the requests of one client on one revision of a Knative Service, without a proxy: the server names its
// revision in the response header Knative-Serving-Tag, the client repeats it, and Knative's tag-header-based routing does the rest.
//
// It is advice: it holds while the revision's tag exists, at any weight in the split, 0 included. When the tag is gone, Knative falls
// back to the split, and the client adopts the revision that answered. What a server names influences requests to its own origin only.
//
// A server wraps its handler in [Handler], a client sends its requests through a [Session]. For either to have an effect the cluster
// needs tag-header-based routing enabled, and each revision a tag of its own name.
package sticky

// Header is the name of the header, of responses and requests alike, that carries a tag. It is Knative's, not ours to choose.
const Header = "Knative-Serving-Tag"

// maxTagBytes is the length of a DNS label (RFC 1035, section 2.3.4).
const maxTagBytes = 63

// ValidTag reports whether tag is one by Knative's rules, which are those of a revision's name as well: a DNS-1035 label, that is at most
// 63 lower-case letters, digits and hyphens, the first a letter and the last no hyphen.
func ValidTag(tag string) bool {
	if tag == "" || len(tag) > maxTagBytes || !isLetter(tag[0]) || tag[len(tag)-1] == '-' {
		return false
	}
	for i := range len(tag) {
		if c := tag[i]; !isLetter(c) && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' }
