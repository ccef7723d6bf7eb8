package cloudsim

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"
)

type server struct {
	ID, Name, Project string
	Status, Task, VM  string
	Fault             string
	Metadata          map[string]string
	Flavor            Flavor
	Port              string
	Volumes           []string // root first
	Created           time.Time
	seq               int64

	// What Nova keeps in system metadata when the server is made, and boots with ever after.
	properties      map[string]string
	kernel, ramdisk string // paths of its own copies
	machine         Machine
	boots           int
}

func (c *Cloud) nova(in *call, path []string) reply {
	missing := reply{status: 404, body: failure("itemNotFound", 404, "The resource could not be found.")}
	if len(path) == 0 {
		return missing
	}
	m := in.r.Method
	switch {
	case path[0] == "limits" && m == "GET":
		return c.novaLimits(in)
	case path[0] == "flavors" && m == "GET":
		return c.novaFlavors(in, path[1:])
	case path[0] == "servers" && len(path) == 1 && m == "POST":
		return c.createServer(in)
	case path[0] == "servers" && m == "GET" && (len(path) == 1 || path[1] == "detail"):
		return c.listServers(in)
	case path[0] == "servers" && len(path) >= 2:
		s := c.servers[path[1]]
		if s == nil || s.Project != in.project() {
			return reply{status: 404, body: failure("itemNotFound", 404, fmt.Sprintf("Instance %s could not be found.", path[1]))}
		}
		switch {
		case len(path) == 2 && m == "GET":
			return reply{status: 200, body: map[string]any{"server": showServer(s)}}
		case len(path) == 2 && m == "DELETE":
			return c.deleteServer(s, c.cfg.SoftDelete && s.Status != "SOFT_DELETED" && s.boots > 0)
		case len(path) == 3 && path[2] == "action" && m == "POST":
			return c.serverAction(in, s)
		}
	}
	return missing
}

func (c *Cloud) novaLimits(in *call) reply {
	n, cores, ram := c.serverUse(in.project())
	return reply{status: 200, body: map[string]any{"limits": map[string]any{"rate": []any{}, "absolute": map[string]any{
		"maxTotalInstances": limit(c.cfg.Quotas.Servers, 1000), "totalInstancesUsed": n,
		"maxTotalCores": limit(c.cfg.Quotas.VCPUs, 100000), "totalCoresUsed": cores,
		"maxTotalRAMSize": limit(c.cfg.Quotas.RAMMiB, 100000000), "totalRAMUsed": ram,
	}}}}
}

func (c *Cloud) serverUse(project string) (n, cores, ram int) {
	for _, s := range c.servers {
		if s.Project == project {
			n, cores, ram = n+1, cores+s.Flavor.VCPUs, ram+s.Flavor.RAMMiB
		}
	}
	return n, cores, ram
}

func (c *Cloud) novaFlavors(in *call, path []string) reply {
	show := func(f Flavor) map[string]any {
		out := map[string]any{"id": f.ID, "name": f.Name, "vcpus": f.VCPUs, "ram": f.RAMMiB, "disk": 0, "os-flavor-access:is_public": true}
		if in.micro != "" && within(in.micro, "2.61", "2.999") {
			specs := f.ExtraSpecs
			if specs == nil {
				specs = map[string]string{}
			}
			out["extra_specs"] = specs
		}
		return out
	}
	if len(path) == 0 || path[0] == "detail" {
		out := []any{}
		for _, f := range paged(in, c.cfg.Flavors, func(f Flavor) string { return f.ID }, 1000) {
			out = append(out, show(f))
		}
		return reply{status: 200, body: map[string]any{"flavors": out}}
	}
	for _, f := range c.cfg.Flavors {
		if f.ID == path[0] {
			return reply{status: 200, body: map[string]any{"flavor": show(f)}}
		}
	}
	return reply{status: 404, body: failure("itemNotFound", 404, fmt.Sprintf("Flavor %s could not be found.", path[0]))}
}

func showServer(s *server) map[string]any {
	var task any
	if s.Task != "" {
		task = s.Task
	}
	volumes := []any{}
	for _, v := range s.Volumes {
		volumes = append(volumes, map[string]any{"id": v, "delete_on_termination": false})
	}
	specs := s.Flavor.ExtraSpecs
	if specs == nil {
		specs = map[string]string{}
	}
	out := map[string]any{
		"id": s.ID, "name": s.Name, "status": s.Status, "OS-EXT-STS:task_state": task, "OS-EXT-STS:vm_state": s.VM, "metadata": s.Metadata,
		"created": s.Created.Format(time.RFC3339), "tenant_id": s.Project, "image": "", "config_drive": "", "locked": false,
		"os-extended-volumes:volumes_attached": volumes,
		"flavor":                               map[string]any{"original_name": s.Flavor.Name, "vcpus": s.Flavor.VCPUs, "ram": s.Flavor.RAMMiB, "extra_specs": specs},
	}
	if s.Status == "ERROR" {
		out["fault"] = map[string]any{"code": 500, "message": s.Fault, "created": s.Created.Format(time.RFC3339)}
	}
	return out
}

func (c *Cloud) listServers(in *call) reply {
	name, err := regexp.Compile(in.r.URL.Query().Get("name"))
	if err != nil {
		return reply{status: 400, body: failure("badRequest", 400, "Invalid filter")}
	}
	var all []*server
	for _, s := range c.servers {
		if s.Project == in.project() && name.MatchString(s.Name) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *server) int { return cmp.Compare(b.seq, a.seq) })
	out := []any{}
	for _, s := range paged(in, all, func(s *server) string { return s.ID }, 1000) {
		out = append(out, showServer(s))
	}
	return reply{status: 200, body: map[string]any{"servers": out}}
}

type serverRequest struct {
	Server struct {
		Name     string            `json:"name"`
		Flavor   string            `json:"flavorRef"`
		Metadata map[string]string `json:"metadata"`
		Networks []struct {
			Port string `json:"port"`
		} `json:"networks"`
		Disks []struct {
			ID     string `json:"uuid"`
			Source string `json:"source_type"`
			Index  *int   `json:"boot_index"`
		} `json:"block_device_mapping_v2"`
	} `json:"server"`
}

func (c *Cloud) createServer(in *call) reply {
	bad := func(format string, args ...any) reply {
		return reply{status: 400, body: failure("badRequest", 400, fmt.Sprintf(format, args...))}
	}
	var req serverRequest
	if !in.json(&req) || req.Server.Name == "" || len(req.Server.Name) > 255 {
		return bad("Invalid input for field/attribute server.")
	}
	q := req.Server
	for k, v := range q.Metadata {
		if len(k) > 255 || len(v) > 255 {
			return bad("Invalid input for field/attribute metadata.")
		}
	}
	i := slices.IndexFunc(c.cfg.Flavors, func(f Flavor) bool { return f.ID == q.Flavor })
	if i < 0 {
		return bad("Flavor %s could not be found.", q.Flavor)
	}
	flavor := c.cfg.Flavors[i]
	if len(q.Networks) != 1 || len(q.Disks) == 0 || q.Disks[0].Index == nil || *q.Disks[0].Index != 0 {
		return bad("Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.")
	}
	s := &server{ID: newID(), Name: q.Name, Project: in.project(), Status: "BUILD", Task: "scheduling", VM: "building", Metadata: q.Metadata, Flavor: flavor, Port: q.Networks[0].Port, properties: map[string]string{}}
	if s.Metadata == nil {
		s.Metadata = map[string]string{}
	}
	for i, d := range q.Disks {
		v := c.volumes[d.ID]
		switch {
		case v == nil || v.Project != in.project() || d.Source != "volume":
			return bad("Block Device Mapping is Invalid: failed to get volume %s.", d.ID)
		case v.Status != "available":
			return bad("Invalid volume: Volume %s status must be available or downloading to reserve, but the current status is %s.", v.ID, v.Status)
		case i == 0 && !v.Bootable:
			return bad("Block Device %s is not bootable.", v.ID)
		case i == 0:
			for k, x := range v.Image {
				s.properties[k] = x
			}
		}
		s.Volumes = append(s.Volumes, v.ID)
	}
	if wrong := encrypts(flavor.ExtraSpecs, s.properties); wrong != "" {
		return bad("%s", wrong)
	}
	// After the volumes, as Nova does: two servers of one specification meet at their disks.
	p := c.ports[q.Networks[0].Port]
	if p == nil || p.Project != in.project() {
		return bad("Port %s not found", q.Networks[0].Port)
	}
	if p.Device != "" {
		return reply{status: 409, body: failure("conflictingRequest", 409, fmt.Sprintf("Port %s is still in use.", p.ID))}
	}
	n, cores, ram := c.serverUse(in.project())
	for _, x := range []struct {
		what            string
		want, used, max int
	}{
		{"instances", 1, n, limit(c.cfg.Quotas.Servers, 1000)},
		{"cores", flavor.VCPUs, cores, limit(c.cfg.Quotas.VCPUs, 100000)},
		{"ram", flavor.RAMMiB, ram, limit(c.cfg.Quotas.RAMMiB, 100000000)},
	} {
		if x.used+x.want > x.max {
			return reply{status: 403, body: failure("forbidden", 403, fmt.Sprintf("Quota exceeded for %s: Requested %d, but already used %d of %d %s", x.what, x.want, x.used, x.max, x.what))}
		}
	}
	for _, key := range []string{"kernel_id", "ramdisk_id"} {
		if id := s.properties[key]; id != "" && (c.images[id] == nil || c.images[id].Status != "active") {
			return bad("Image %s could not be found.", id)
		}
	}
	if err := c.keepBootFiles(s); err != nil {
		return reply{status: 500, body: failure("computeFault", 500, "Unexpected API Error.")}
	}
	for _, id := range s.Volumes {
		c.volumes[id].Status, c.volumes[id].Server = "reserved", s.ID
	}
	s.Created, s.seq = c.tick()
	c.servers[s.ID] = s
	c.created["server"]++
	if c.noHost {
		c.after(c.cfg.Latency.Server, func() {
			s.fail("No valid host was found. ")
			c.releaseDisks(s)
		})
	} else {
		c.after(c.cfg.Latency.Server, func() { c.spawn(s) })
	}
	return reply{
		status: 202, header: map[string]string{"Location": in.base + "/compute/v2.1/servers/" + s.ID},
		body: map[string]any{"server": map[string]any{"id": s.ID, "links": []any{}, "OS-DCF:diskConfig": "MANUAL", "security_groups": []any{}, "adminPass": hexID()[:12]}},
	}
}

func (s *server) fail(fault string) { s.Status, s.VM, s.Task, s.Fault = "ERROR", "error", "", fault }

func (c *Cloud) releaseDisks(s *server) {
	for _, id := range s.Volumes {
		if v := c.volumes[id]; v != nil && v.Server == s.ID {
			v.Server, v.Status = "", "available"
		}
	}
}

func (c *Cloud) serverAction(in *call, s *server) reply {
	var req map[string]any
	if !in.json(&req) || len(req) != 1 {
		return reply{status: 400, body: failure("badRequest", 400, "Malformed request body")}
	}
	wrong := func(action string) reply {
		return reply{status: 409, body: failure("conflictingRequest", 409, fmt.Sprintf("Cannot '%s' instance %s while it is in vm_state %s", action, s.ID, s.VM))}
	}
	for action, argument := range req {
		switch action {
		case "os-stop":
			if s.VM != "active" && s.VM != "error" || s.Task != "" {
				return wrong("stop")
			}
			s.Task = "powering-off"
			c.stop(s)
			return reply{status: 202}
		case "os-start":
			if s.VM != "stopped" || s.Task != "" {
				return wrong("start")
			}
			s.Task = "powering-on"
			c.after(c.cfg.Latency.Server, func() { c.boot(s) })
			return reply{status: 202}
		case "forceDelete":
			c.deleteServer(s, false)
			return reply{status: 202}
		case "os-getConsoleOutput":
			lines := 0
			if opts, ok := argument.(map[string]any); ok {
				_, _ = fmt.Sscan(fmt.Sprint(opts["length"]), &lines)
			}
			return reply{status: 200, body: map[string]any{"output": tail(c.console(s), lines)}}
		}
	}
	return reply{status: 400, body: failure("badRequest", 400, "There is no such action")}
}

// deleteServer answers at once; port and disks are free again when the server is gone.
func (c *Cloud) deleteServer(s *server, soft bool) reply {
	if s.machine != nil {
		s.machine.Kill()
		s.machine = nil
	}
	s.Task = "deleting"
	c.after(c.cfg.Latency.Delete, func() {
		if c.servers[s.ID] == nil {
			return // deleted twice
		}
		if soft {
			s.Status, s.VM, s.Task = "SOFT_DELETED", "soft-delete", ""
			return
		}
		if p := c.ports[s.Port]; p != nil && p.Device == s.ID {
			p.Device, p.Owner = "", ""
		}
		c.releaseDisks(s)
		delete(c.servers, s.ID)
		for _, path := range []string{c.console(s), s.kernel, s.ramdisk} {
			_ = os.Remove(path)
		}
	})
	return reply{status: 204}
}
