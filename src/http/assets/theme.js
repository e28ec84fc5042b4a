// Dark or light: as the system has it, or as was chosen.
export function themed() {
  const chosen = localStorage.getItem('theme');
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  const now = chosen ? `The theme is ${chosen}` : "The theme is the system's";
  const button = document.querySelector('#theme');
  button.title = `${now}; press to change`;
  button.setAttribute('aria-label', `${now}. Change`);
}
export function switchTheme() {
  const next = { null: 'dark', dark: 'light', light: null }[localStorage.getItem('theme')];
  if (next) localStorage.setItem('theme', next);
  else localStorage.removeItem('theme');
  themed();
}
