// Signs in at a Countersign gateway and stays signed in as long as this page is open: authorization code with PKCE,
// RFC 9728 and RFC 8414 discovery, the issuer check of RFC 9207, refresh with rotation, revocation.
//
// The tokens are in this module's variables and nowhere else: a reload means to sign in again. What other scripts of
// this origin could read later (localStorage, cookies) is not used for them.

import * as oauth from "./vendor/oauth4webapi.js";

const SCOPE = "promote";
const PENDING = "countersign-sign-in"; // sessionStorage: what must survive the way to the gateway and back, no token
const EARLY_MS = 60_000;

/** Whoever sees this must sign in (again). */
export class SignInNeeded extends Error {}

/** The gateway said no, in its own words. */
export class Refused extends Error {}

export class Session {
  #gateway;
  #client;
  #redirectUri;
  #options;
  #server;
  #tokens;
  #refreshing;

  constructor(gateway, clientId, redirectUri) {
    this.#gateway = new URL(gateway);
    this.#client = { client_id: clientId };
    this.#redirectUri = redirectUri;
    const isLoopback = ["127.0.0.1", "[::1]", "localhost"].includes(this.#gateway.hostname);
    this.#options = { [oauth.allowInsecureRequests]: isLoopback };
  }

  get isSignedIn() {
    return this.#tokens !== undefined;
  }

  /** Leaves the page; the gateway sends the person back to it. */
  async signIn() {
    const server = await this.#discover();
    const verifier = oauth.generateRandomCodeVerifier();
    const state = oauth.generateRandomState();
    sessionStorage.setItem(PENDING, JSON.stringify({ verifier, state }));
    const address = new URL(server.authorization_endpoint);
    address.search = new URLSearchParams({
      response_type: "code",
      client_id: this.#client.client_id,
      redirect_uri: this.#redirectUri,
      scope: SCOPE,
      state,
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
      code_challenge_method: "S256",
    }).toString();
    location.assign(address);
  }

  /** Whether the person came back from the gateway, with whatever answer; takes it out of the address bar. */
  async finish() {
    const answer = new URL(location.href);
    const pending = sessionStorage.getItem(PENDING);
    sessionStorage.removeItem(PENDING);
    if (!answer.searchParams.has("state")) return;
    history.replaceState(null, "", location.pathname);
    if (pending === null) throw new SignInNeeded("This sign-in was begun in another tab, or long ago.");
    const { verifier, state } = JSON.parse(pending);
    const server = await this.#discover();
    try {
      const parameters = oauth.validateAuthResponse(server, this.#client, answer, state);
      const response = await oauth.authorizationCodeGrantRequest(
        server, this.#client, oauth.None(), parameters, this.#redirectUri, verifier, this.#options,
      );
      this.#keep(await oauth.processAuthorizationCodeResponse(server, this.#client, response));
    } catch (error) {
      if (error instanceof oauth.AuthorizationResponseError && error.error === "access_denied") {
        throw new SignInNeeded("You said no: nobody is signed in.");
      }
      throw inWords(error);
    }
  }

  async signOut() {
    const token = this.#tokens?.refreshToken;
    this.#tokens = undefined;
    if (token === undefined) return;
    const server = await this.#discover();
    await oauth.processRevocationResponse(
      await oauth.revocationRequest(server, this.#client, oauth.None(), token, this.#options),
    );
  }

  /** What the API answers. A token that it does not take is renewed once. */
  async get(path) {
    let response = await this.#fetch(path, await this.#accessToken());
    if (response.status === 401) response = await this.#fetch(path, await this.#renewed());
    if (response.status === 401) {
      this.#tokens = undefined;
      throw new SignInNeeded("The gateway no longer accepts this sign-in.");
    }
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      const words = problem.detail ?? problem.title ?? "The gateway answered without a reason.";
      throw new Refused(response.status === 403 ? `You may not see this: ${words}` : `${words} (${response.status})`);
    }
    return response.json();
  }

  #fetch(path, token) {
    return fetch(new URL(`/control/v1${path}`, this.#gateway), {
      headers: { Accept: "application/json", Authorization: `Bearer ${token}` },
      credentials: "omit",
      redirect: "error",
      cache: "no-store",
    });
  }

  async #accessToken() {
    if (this.#tokens === undefined) throw new SignInNeeded("You are not signed in.");
    // The monotonic clock: it does not jump when the machine's is set.
    if (performance.now() >= this.#tokens.until) await this.#renewed();
    return this.#tokens.accessToken;
  }

  // One at a time: a refresh token that is shown twice ends the login.
  #renewed() {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  async #refresh() {
    if (this.#tokens === undefined) throw new SignInNeeded("You are not signed in.");
    const server = await this.#discover();
    try {
      const response = await oauth.refreshTokenGrantRequest(
        server, this.#client, oauth.None(), this.#tokens.refreshToken, this.#options,
      );
      this.#keep(await oauth.processRefreshTokenResponse(server, this.#client, response));
    } catch (error) {
      if (error instanceof oauth.ResponseBodyError && error.error === "invalid_grant") {
        this.#tokens = undefined;
        throw new SignInNeeded("Your sign-in has ended.");
      }
      throw inWords(error);
    }
    return this.#tokens.accessToken;
  }

  #keep(answer) {
    this.#tokens = {
      accessToken: answer.access_token,
      refreshToken: answer.refresh_token,
      until: performance.now() + Math.max(0, (answer.expires_in ?? 0) * 1000 - EARLY_MS),
    };
  }

  async #discover() {
    if (this.#server === undefined) {
      const resource = await oauth.processResourceDiscoveryResponse(
        this.#gateway, await oauth.resourceDiscoveryRequest(this.#gateway, this.#options),
      );
      // Of the servers that are named, the gateway itself: this page is its client, not the provider's.
      const issuer = (resource.authorization_servers ?? []).map((url) => new URL(url)).find((url) => url.origin === this.#gateway.origin);
      if (issuer === undefined) throw new Refused("This gateway gives out no tokens of its own.");
      const response = await oauth.discoveryRequest(issuer, { ...this.#options, algorithm: "oauth2" });
      this.#server = await oauth.processDiscoveryResponse(issuer, response);
    }
    return this.#server;
  }
}

function inWords(error) {
  if (error instanceof oauth.ResponseBodyError || error instanceof oauth.AuthorizationResponseError) {
    return new Refused(error.error_description ?? error.error);
  }
  return error;
}
