package kbs_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/kbs"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		path, plugin, segments string
		collapsed              bool
		status                 int
	}{
		{"/kbs/v0/resource/a/b/c", "resource", "a/b/c", false, 0},
		{"/kbs/v0/resource//a/b/c", "resource", "a/b/c", true, 0},
		{"/kbs/v0//resource///a/b//c", "resource", "a/b/c", true, 0},
		{"/kbs/v0/resource/a/b/c/", "resource", "a/b/c", true, 0},
		{"/kbs/v0/auth", "auth", "", false, 0},
		{"/kbs/v0/resource/_-/A.z-9/..c", "", "", false, 404},
		{"/kbs/v0/resource/_-/A.z-9/-..c", "resource", "_-/A.z-9/-..c", false, 0},
		{"/kbs/v0/resource/a/../c", "", "", false, 404},
		{"/kbs/v0/resource/a/%2e%2e/c", "", "", false, 404},
		{"/kbs/v0/resource/a/b c/d", "", "", false, 404},
		{"/kbs/v0/resource/a/b\x00/d", "", "", false, 404},
		{"/kbs/v0/resource/a/é/d", "", "", false, 404},
		{"/kbs/v0/resource/a/" + strings.Repeat("b", 256) + "/d", "", "", false, 404},
		{"/kbs/v0/resource" + strings.Repeat("/a", 17), "", "", false, 404},
		{"/kbs/v0/resource" + strings.Repeat("/", 2000) + "a/b/c", "", "", false, 404},
		{"/kbs/v0", "", "", false, 404},
		{"/kbs/v0/", "", "", false, 404},
		{"/kbs/v0x/auth", "", "", false, 404},
		{"/kbs/v1/auth", "", "", false, 404},
		{"/kbs/v0/%61uth", "", "", false, 404},
		{"", "", "", false, 404},
	} {
		p, err := kbs.ParsePath(c.path)
		if c.status == 0 {
			if err != nil || p.Plugin != c.plugin || strings.Join(p.Segments, "/") != c.segments || p.Collapsed != c.collapsed {
				t.Errorf("%s: %+v, %v", c.path, p, err)
			}
			continue
		}
		var e *kbs.Error
		if !errors.As(err, &e) || e.Status != c.status || p.Plugin != "" {
			t.Errorf("%.60s: %+v, %v", c.path, p, err)
		}
	}
}

func TestResource(t *testing.T) {
	r, err := kbs.ParseResource("default/sample/test")
	if err != nil || r.String() != "default/sample/test" || r.Tag != "test" {
		t.Errorf("%v, %v", r, err)
	}
	for _, name := range []string{"", "a", "a/b", "a/b/c/d", "a//c", "/a/b/c", "a/b/.c", "a/b/c\n", "a/b/c?"} {
		if r, err := kbs.ParseResource(name); err == nil || r != (kbs.Resource{}) {
			t.Errorf("%q names %v", name, r)
		}
	}
	if _, err := (kbs.Path{Plugin: "pkcs11", Segments: []string{"a", "b", "c"}}).Resource(); err == nil {
		t.Error("another plugin has resources")
	}
	if _, err := (kbs.Path{}).Resource(); err == nil {
		t.Error("the zero path names a resource")
	}
}

func TestValidSession(t *testing.T) {
	if !kbs.ValidSession("a0c8983379f74149acf1ee51193f4d02") {
		t.Error("a recorded session is none")
	}
	for _, s := range []string{"", "A0C8983379F74149ACF1EE51193F4D02", "a0c8983379f74149acf1ee51193f4d0", "a0c89833-79f7-4149-acf1-ee51193f4d02", strings.Repeat("g", 32)} {
		if kbs.ValidSession(s) {
			t.Errorf("%q is a session", s)
		}
	}
}
