package auth_test

import (
	"fmt"
	"testing"

	"github.com/nudgesync/nudge/server/auth"
)

func TestCacheIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	const size = 640
	c := auth.NewCache(size)
	sum := func(i int) auth.Digest { return auth.DigestOf(fmt.Sprint(i)) }
	for i := range 100 * size {
		c.Put(sum(i), auth.Identity{User: fmt.Sprint(i)})
		if id, ok := c.Get(sum(0)); !ok || id.User != "0" {
			t.Fatalf("after %d others, a token in use is gone", i)
		}
		if n := c.Len(); n > 2*size {
			t.Fatalf("the cache holds %d tokens", n)
		}
	}
	if _, ok := c.Get(sum(1)); ok {
		t.Error("a token that nobody used stayed")
	}
	if id, ok := c.Get(sum(100*size - 1)); !ok || id.User != fmt.Sprint(100*size-1) {
		t.Errorf("the newest token: %+v, %v", id, ok)
	}
}
