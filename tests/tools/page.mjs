// page.mjs JSON -- looks at the status page with a real browser and prints what it saw as one line of JSON.
//
// JSON: { "url", "shots" (folder), "profile" (empty folder), "chromium", "secret": { "file", "right" }, "config": file }
// The page must show `acme` (well) and `beta` (latched: its vendor said something with markup in it).
import { readFile, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const installed = fileURLToPath(new URL('../../target/tools/node/', import.meta.url));
const { default: puppeteer } = await import(pathToFileURL(createRequire(installed).resolve('puppeteer-core')));
const given = JSON.parse(process.argv[2]);
const saw = { complaints: [], hosts: [] };

const browser = await puppeteer.launch({
  executablePath: given.chromium,
  userDataDir: given.profile,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
  ],
});

// Every mistake that the browser notices: scripts, the console, the policy, requests.
async function watched(page) {
  page.on('console', (line) => {
    // The browser notes each status from 400 on; the refused reload is one, and wanted.
    const wanted = line.text().includes('status of 422') && line.location().url.endsWith('/api/reload');
    if (['error', 'warn'].includes(line.type()) && !wanted) saw.complaints.push(`console: ${line.text()}`);
  });
  page.on('pageerror', (error) => saw.complaints.push(`script: ${error.message}`));
  page.on('requestfailed', (request) => saw.complaints.push(`request: ${request.url()} ${request.failure()?.errorText}`));
  page.on('request', (request) => saw.hosts.push(new URL(request.url()).host));
  await page.exposeFunction('violated', (what) => saw.complaints.push(`policy: ${what}`));
  await page.evaluateOnNewDocument(() => {
    document.addEventListener('securitypolicyviolation', (e) => window.violated(`${e.violatedDirective} ${e.blockedURI}`));
  });
}

// Text whose colour cannot be told from what is behind it: below 4.5 (WCAG 2.2, 1.4.3).
function pale() {
  const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(e instanceof SVGElement ? style.fill : style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${e.tagName} "${e.textContent.trim().slice(0, 30)}" ${ratio.toFixed(2)}`);
  }
  return found;
}

try {
  const page = await browser.newPage();
  await watched(page);
  const text = (selector) => page.$eval(selector, (e) => e.innerText);
  const until = (what, ...args) => page.waitForFunction(what, { timeout: 20000, polling: 50 }, ...args);
  const gone = () => page.$eval('#credential-acme rect.gone', (e) => parseFloat(e.getAttribute('width')));
  await page.goto(given.url, { waitUntil: 'load' });
  saw.beta = await text('#credential-beta');
  saw.title = await page.title();

  for (const scheme of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
    for (const width of [1000, 400]) {
      await page.setViewport({ width, height: 900 });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      if (wide > width) saw.complaints.push(`${wide} px wide at ${width}`);
      await page.screenshot({ path: join(given.shots, `${scheme}-${width}.png`), fullPage: true });
    }
    saw.complaints.push(...(await page.evaluate(pale)).map((what) => `${scheme}: pale ${what}`));
    saw[scheme] = await page.$eval('body', (e) => getComputedStyle(e).backgroundColor);
  }
  await page.setViewport({ width: 1000, height: 900 });

  // Live: the bar goes on by itself, and traffic has a rate.
  const start = await gone();
  await until((start) => parseFloat(document.querySelector('#credential-acme rect.gone').getAttribute('width')) > start, start);
  await until(() => /^[1-9][\d.]*\/s$/.test(document.querySelector('[data-upstream=acme]').textContent));
  saw.rate = await text('[data-upstream=acme]');
  saw.acme_row = await page.$eval('[data-upstream=acme]', (e) => e.closest('tr').innerText);

  // By keyboard only: the skip link comes first, each stop is seen, Enter asks for a token, and focus stays through updates.
  const old = await gone();
  const stops = [];
  for (let i = 0; i < 12; i += 1) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(() => {
      const e = document.activeElement;
      return { name: e.ariaLabel || e.innerText, outline: getComputedStyle(e).outlineStyle };
    });
    stops.push(stop.name);
    if (stop.outline === 'none') saw.complaints.push(`no focus is seen on ${stop.name}`);
    if (stop.name === 'Refresh acme') break;
  }
  saw.stops = stops;
  await page.keyboard.press('Enter');
  await until((old) => parseFloat(document.querySelector('#credential-acme rect.gone').getAttribute('width')) < old, old);
  saw.told_refresh = await text('#told');
  saw.focus = await page.evaluate(() => document.activeElement.ariaLabel);
  const tree = JSON.stringify(await page.accessibility.snapshot({ interestingOnly: false }));
  saw.landmarks = ['banner', 'main', 'contentinfo', 'status', 'alert', 'image', 'table'].filter((role) => tree.includes(`"role":"${role}"`));

  // Unlatch asks first; a wrong secret latches again.
  const asked = new Promise((resolve) => page.once('dialog', async (dialog) => {
    resolve(dialog.message());
    await dialog.accept();
  }));
  await page.click('[aria-label="Unlatch beta"]');
  saw.asked = await asked;
  await until(() => document.querySelector('#told').textContent.includes('unlatched'));
  // The right secret opens the latch by itself, and that is told.
  await writeFile(given.secret.file, given.secret.right);
  await until(() => document.querySelector('#credential-beta').innerText.includes('token in use'));
  saw.told_beta = await text('#told');
  saw.well = await text('.overall');

  // A wrong configuration is told with its reasons, and forgotten once it is right again.
  const right = await readFile(given.config);
  const replace = async (bytes) => {
    await writeFile(`${given.config}.new`, bytes);
    await rename(`${given.config}.new`, given.config);
  };
  await replace(`${right}\n[upstreams.acme.nonsense]\n`);
  await page.click('button[data-post="/api/reload"]');
  await until(() => document.querySelector('.overall').innerText.includes('refused'));
  saw.refused = await text('.failure');
  await page.screenshot({ path: join(given.shots, 'refused.png'), fullPage: true });
  await replace(right);
  await until(() => !document.querySelector('.overall').innerText.includes('refused'));
  saw.script_ran = await page.evaluate(() => 'hacked' in window || document.querySelectorAll('#live script, #live img').length > 0);

  // Without scripts the state is there, and nothing that would not work.
  const plain = await browser.newPage();
  await plain.setJavaScriptEnabled(false);
  await plain.goto(given.url);
  saw.plain = await plain.$eval('main', (e) => e.innerText);
  saw.plain_buttons = await plain.$$eval('button', (all) => all.filter((e) => e.checkVisibility()).length);
} catch (error) {
  saw.complaints.push(`stopped: ${error.stack}`);
} finally {
  await browser.close();
}
saw.hosts = [...new Set(saw.hosts)];
console.log(JSON.stringify(saw));
