"use strict";
const $ = (name) => document.getElementById(name);
const SVG = "http://www.w3.org/2000/svg";
const BOXES = 2; // the best one and the runner-up
const ROUNDING = 1e-6;
const MOST_OPAQUE = 0.65; // the region that gets the largest share
let about = {};
let looks = []; // what the answer attends to: {svg, attention} for each picture
let chosen = null; // the number of the word whose attention stays; null: the text as a whole

async function json(address, options) {
  const response = await fetch(address, options);
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function show(shown, source) {
  const image = shown.querySelector("img");
  looks = looks.filter((look) => look.svg.parentNode !== shown);
  shown.querySelector("svg").replaceChildren();
  shown.hidden = true;
  shown.classList.remove("empty");
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.onload = () => { shown.hidden = false; shown.classList.remove("empty"); };
  if (source) image.src = source; else image.removeAttribute("src");
}

function take(slot, file) {
  slot.sent = file;
  slot.querySelector(".id").value = "";
  show(slot.querySelector(".shown"), URL.createObjectURL(file));
}

function takeAll(slot, files) {
  const taken = about.images === null ? [...files] : [...files].slice(0, 1);
  taken.forEach((file, number) => take(number ? addSlot() : slot, file));
}

function addSlot() {
  const slot = $("slot").content.cloneNode(true).firstElementChild;
  const id = slot.querySelector(".id"), drop = slot.querySelector(".drop"), file = slot.querySelector(".file");
  id.addEventListener("input", async () => {
    const found = await json("images?" + new URLSearchParams({ like: id.value }));
    $("ids").replaceChildren(...found.map((name) => new Option(name, name)));
  });
  id.addEventListener("change", () => {
    slot.sent = null;
    file.value = "";
    show(slot.querySelector(".shown"), id.value && "picture?" + new URLSearchParams({ id: id.value }));
  });
  file.multiple = about.images === null;
  file.addEventListener("change", () => takeAll(slot, file.files));
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => takeAll(slot, event.dataTransfer.files));
  $("slots").append(slot);
  return slot;
}

function rectangle(svg, [left, top, right, bottom], kind) {
  const rect = document.createElementNS(SVG, "rect");
  const sides = { x: left, y: top, width: right - left, height: bottom - top, class: kind };
  for (const [key, value] of Object.entries(sides)) rect.setAttribute(key, value);
  svg.append(rect);
  return rect;
}

function draw(shown, size, choices, attention) {
  const svg = shown.querySelector("svg"), boxes = choices.filter((choice) => choice.box).slice(0, BOXES);
  svg.replaceChildren();
  if (!boxes.length && !attention) return;
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  if (shown.hidden) { // no picture: the places alone
    shown.style.setProperty("--ratio", `${size.width} / ${size.height}`);
    shown.classList.add("empty");
    shown.hidden = false;
  }
  if (attention) {
    for (const box of attention.boxes) {
      rectangle(svg, box, "region").append(document.createElementNS(SVG, "title")); // shown where one points
    }
    looks.push({ svg, attention });
  }
  boxes.forEach(({ box }, rank) => rectangle(svg, box, `rank${rank}`));
}

function shade(word) { // null: the text as a whole
  for (const { svg, attention } of looks) {
    const shares = word === null ? attention.shares : attention.words[word].shares;
    const even = 1 / shares.length, most = Math.max(...shares) - even; // what gets no more than an even share stays clear
    svg.querySelectorAll(".region").forEach((rect, number) => {
      const above = $("shade").checked && most > ROUNDING ? Math.max(0, shares[number] - even) / most : 0;
      rect.style.fillOpacity = MOST_OPAQUE * above;
      rect.firstChild.textContent = `region ${number}: ${(100 * shares[number]).toFixed(1)} %`;
    });
  }
}

function showAttention() {
  $("attention").hidden = !looks.length;
  const words = looks.length ? looks[0].attention.words : [];
  $("words").replaceChildren(...words.map(({ word }, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    button.setAttribute("aria-pressed", "false");
    for (const name of ["mouseenter", "focus"]) button.addEventListener(name, () => shade(number));
    for (const name of ["mouseleave", "blur"]) button.addEventListener(name, () => shade(chosen));
    button.addEventListener("click", () => {
      chosen = chosen === number ? null : number;
      [...$("words").children].forEach((each, index) => each.setAttribute("aria-pressed", index === chosen));
      shade(chosen);
    });
    return button;
  }));
  shade(null);
}

function pictureOf(name, images, used) { // where the picture of an image of the question is to be had, or null
  if (about.images !== null || images.length < 2) return null;
  const number = images.findIndex((image) => image.id === name);
  if (number < 0) return null;
  const shown = used[number] && used[number].querySelector(".shown:not([hidden]):not(.empty) img");
  if (used[number]) return shown && shown.src;
  return "picture?" + new URLSearchParams({ id: name });
}

function line(choice, images, used) {
  const item = document.createElement("li"), picture = pictureOf(choice.text, images, used);
  if (picture) {
    const thumb = document.createElement("img");
    thumb.className = "thumb";
    thumb.alt = "";
    thumb.src = picture;
    item.append(thumb);
  }
  item.append(choice.text);
  if (choice.probability !== undefined) {
    const meter = document.createElement("meter");
    meter.value = choice.probability;
    item.append(meter, ` ${(100 * choice.probability).toFixed(1)} %`);
  }
  return item;
}

function tell(answer, used) {
  const { images, choices, attention = [] } = answer;
  $("answer").textContent = answer.answer;
  $("choices").replaceChildren(...choices.map((choice) => line(choice, images, used)));
  $("result").hidden = false;
  looks = [];
  chosen = null;
  show($("best"), null);
  const each = attention.length === images.length; // else of the best picture alone
  images.forEach((image, number) => {
    const seen = each ? attention[number] : attention.find((one) => one.image === image.id);
    if (used[number]) draw(used[number].querySelector(".shown"), image, number ? [] : choices, seen);
    else if (seen) {
      show($("best"), "picture?" + new URLSearchParams({ id: image.id }));
      draw($("best"), image, [], seen);
    }
  });
  showAttention();
}

async function ask(event) {
  event.preventDefault();
  complain("");
  $("send").disabled = true;
  try {
    const form = new FormData(), slots = [...$("slots").children];
    const texts = about.texts === 1 ? [$("text").value.replaceAll("\n", " ")] : $("text").value.split("\n");
    for (const text of texts) form.append("text", text);
    const pool = about.pool && $("pool").checked;
    const used = pool ? [] : slots.filter((slot) => slot.sent || slot.querySelector(".id").value);
    const sent = used.filter((slot) => slot.sent);
    const bytes = sent.reduce((sum, slot) => sum + slot.sent.size, 0);
    if (bytes > about.max_upload_bytes) throw new Error(`the pictures are larger than ${about.max_upload_bytes >> 20} MB`);
    for (const [index, slot] of used.entries()) {
      form.append(`image${index}`, slot.sent || slot.querySelector(".id").value);
    }
    if (pool) form.append("pool", "pictures");
    const answer = await json("ask", { method: "POST", body: form });
    tell(answer, used);
  } catch (error) {
    $("result").hidden = true;
    complain(error.message);
  } finally {
    $("send").disabled = false;
  }
}

async function start() {
  about = await json("about");
  $("task").textContent = about.task;
  const photographs = about.reads_pictures ? "The model sees photographs themselves." :
    about.detector ? "Photographs go through the detector." :
    "No detector: a dropped picture needs the name and size of an image with stored features.";
  $("about").textContent = `${about.checkpoint}; ${about.stored} images with stored features. ${photographs}`;
  for (let number = 0; number < (about.images || 1); number++) addSlot();
  $("more").hidden = about.images !== null;
  $("several").hidden = about.texts === 1;
  $("note").textContent = about.note || "";
  $("note").hidden = !about.note;
  $("poolLabel").hidden = !about.pool;
  $("poolSize").textContent = about.pool;
  $("pool").addEventListener("change", () => { $("slots").hidden = $("more").parentNode.hidden = $("pool").checked; });
  $("shade").addEventListener("change", () => shade(chosen));
  $("more").addEventListener("click", addSlot);
  $("form").addEventListener("submit", ask);
  document.body.dataset.ready = "yes";
}

start().catch((error) => complain(error.message));
