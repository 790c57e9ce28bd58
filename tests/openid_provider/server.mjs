// An OpenID provider of another make: claims at its userinfo endpoint alone, logout by the back channel.
// node server.mjs <port> <gateway> <name of the provider at the gateway>
import { Provider } from "oidc-provider";

const [port, gateway, name] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "countersign web",
      client_secret: "a secret: with/all+kinds of %signs",
      redirect_uris: [`${gateway}/auth/callback/${name}`],
      post_logout_redirect_uris: [`${gateway}/auth/signed-out`],
      backchannel_logout_uri: `${gateway}/auth/backchannel-logout/${name}`,
      backchannel_logout_session_required: true,
    },
  ],
  claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
  features: {
    devInteractions: { enabled: true }, // whoever says a name has it
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: { enabled: true },
  },
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, groups: ["scientists"] }),
  }),
  // Its own guard against requests to inner addresses: in a test the gateway has no other.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  cookies: { keys: ["not a secret"] },
});
provider.on("backchannel.error", (_context, error) => console.log("backchannel.error", error.message));
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
