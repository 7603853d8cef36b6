package extauthz_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3" // the messages that files name
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pkid/pkid/forwardauth"
)

// The configurations for Envoy are what Envoy's own definitions say they may be, to the last typed part, and let no client
// say what only pkid says.
func TestEnvoyConfigurations(t *testing.T) {
	files, err := filepath.Glob("../../deploy/envoy/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := yaml.Unmarshal(text, &tree); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		asJSON, err := json.Marshal(tree)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var conf bootstrapv3.Bootstrap
		if err := protojson.Unmarshal(asJSON, &conf); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if err := conf.ValidateAll(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, l := range conf.GetStaticResources().GetListeners() {
			var m hcmv3.HttpConnectionManager
			if err := l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig().UnmarshalTo(&m); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if err := m.ValidateAll(); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if how := m.GetForwardClientCertDetails(); how != hcmv3.HttpConnectionManager_SANITIZE && how != hcmv3.HttpConnectionManager_SANITIZE_SET {
				t.Errorf("%s: %s lets a client's certificate header through: %s", file, l.GetName(), how)
			}
		}
		for _, name := range forwardauth.Headers() {
			if strings.Contains(file, "forward-auth") && !strings.Contains(string(text), "- remove: "+strings.ToLower(name)+"\n") {
				t.Errorf("%s: a client's %s is not removed", file, name)
			}
		}
	}
}
