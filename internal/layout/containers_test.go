package layout_test

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// compose is the part of the Compose specification that the file uses: an unknown key is an error.
type compose struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Build       string            `yaml:"build"`
		Command     []string          `yaml:"command"`
		Environment map[string]string `yaml:"environment"`
		Volumes     []string          `yaml:"volumes"`
		Ports       []string          `yaml:"ports"`
		Healthcheck *struct {
			Test     []string `yaml:"test"`
			Interval string   `yaml:"interval"`
			Timeout  string   `yaml:"timeout"`
			Retries  int      `yaml:"retries"`
		} `yaml:"healthcheck"`
		DependsOn map[string]struct {
			Condition string `yaml:"condition"`
		} `yaml:"depends_on"`
		StopGracePeriod string `yaml:"stop_grace_period"`
	} `yaml:"services"`
	Volumes map[string]any `yaml:"volumes"`
}

func TestComposeFile(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root(t), "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "redis", "nudge"} {
		if _, ok := c.Services[name]; !ok {
			t.Errorf("no service %s", name)
		}
	}
	if !strings.Contains(strings.Join(c.Services["postgres"].Command, " "), "wal_level=logical") {
		t.Error("postgres runs without wal_level=logical")
	}
	for name, s := range c.Services {
		if (s.Image == "") == (s.Build == "") {
			t.Errorf("%s: image %q, build %q", name, s.Image, s.Build)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s beyond loopback", name, p)
			}
		}
		for on, d := range s.DependsOn {
			if c.Services[on].Healthcheck == nil || d.Condition != "service_healthy" {
				t.Errorf("%s depends on %s, whose health nobody checks", name, on)
			}
		}
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, ok := c.Volumes[volume]; !ok {
				t.Errorf("%s: volume %s is not declared", name, volume)
			}
		}
	}
}

// Every line of the Dockerfile is an instruction, what it copies from here exists, and it builds what
// the Makefile builds, with a Go that go.mod accepts.
func TestDockerfile(t *testing.T) {
	f, err := os.Open(filepath.Join(root(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	instruction := regexp.MustCompile(`^(FROM|WORKDIR|COPY|RUN|EXPOSE|ENTRYPOINT|CMD) (.+)$`)
	var text strings.Builder
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := instruction.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not an instruction: %q", line)
		}
		text.WriteString(line + "\n")
		if fields := strings.Fields(m[2]); m[1] == "COPY" && !strings.HasPrefix(fields[0], "--from") {
			for _, from := range fields[:len(fields)-1] {
				if _, err := os.Stat(filepath.Join(root(t), from)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	for _, want := range []string{"FROM golang:" + string(version[1]) + " ", "./server", "nonroot"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the Dockerfile lacks %q", want)
		}
	}
}
