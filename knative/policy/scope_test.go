package policy

import "testing"

func TestServicesAreNamedByRouteAndTag(t *testing.T) {
	for tag, want := range map[string]string{"": "shop/demo", "blue": "shop/demo/blue", "a/b": "shop/demo/a%2Fb"} {
		if got := ServiceName("shop", "demo", tag).String(); got != want {
			t.Errorf("ServiceName(shop, demo, %q) = %s, want %s", tag, got, want)
		}
	}
}
